"""A policy on real daemons, WireGuard and chain: connections that begin, go on, and end."""

import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from demo.lab import Lab
from demo.node import LabNode
from tests.netns.conftest import connect_three
from tests.netns_support import wait_until

from dstack_vpn.adapters.contracts import calls

pytestmark = [pytest.mark.netns, pytest.mark.anvil]

WEB, DB, OPS = 1, 2, 4
SERVER = """
import socket, sys, threading
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
server = socket.create_server((sys.argv[1], int(sys.argv[2])), family=family)
print("up", flush=True)
def serve(one):
    with one:
        while data := one.recv(4096):
            one.sendall(data)
while True:
    threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()
"""


class Network:
    """Three nodes: a is a web server, b a database, c has no tag."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.a, self.b, self.c = (lab.nodes[name] for name in "abc")
        for name in ("web", "db", "ops"):
            lab.chain.send(calls.define_tag(name))
        self.tag(self.a, WEB)
        self.tag(self.b, DB)

    def tag(self, node: LabNode, mask: int) -> None:
        self.lab.chain.send(calls.set_tags(node.token, mask))

    def set(self, *grants: dict[str, Any], tests: tuple[Any, ...] = ()) -> None:
        """Set a policy, and wait until every node enforces it."""
        text = json.dumps({"grants": grants, "tests": tests}) if grants else ""
        mined = self.lab.chain.send(calls.set_policy(text))
        del mined
        for node in self.lab.nodes.values():
            wait_until(lambda node=node: enforces(node, text), f"{node.name} enforces the policy")  # type: ignore[misc]


def enforces(node: LabNode, text: str) -> bool:
    shown = node.get("/policy")
    texts = [each["text"] for each in shown["in_force"] or ()]
    return texts == ([text] if text else []) and bool(shown["enforced"])


@contextmanager
def serving(node: LabNode, address: str, port: int) -> Iterator[None]:
    """Echo over TCP."""
    server = node.namespace.popen(sys.executable, "-c", SERVER, address, str(port), stdout=subprocess.PIPE)
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == "up\n"
        yield
    finally:
        server.kill()
        server.wait(10)


def connect(node: LabNode, address: str, port: int, wait: float = 1.0) -> socket.socket | None:
    """Open a connection; None if none is possible within some seconds."""
    with node.namespace.entered():
        try:
            return socket.create_connection((address, port), timeout=wait)
        except OSError:
            return None


def echoes(connection: socket.socket, wait: float = 2.0) -> bool:
    """Return whether the other end answers."""
    connection.settimeout(wait)
    try:
        connection.sendall(b"x")
        return connection.recv(1) == b"x"
    except TimeoutError:
        return False


def may_connect(node: LabNode, address: str, port: int) -> bool:
    found = connect(node, address, port)
    if found is None:
        return False
    with found:
        return echoes(found)


@pytest.fixture
def network(empty_lab: Lab) -> Network:
    return Network(connect_three(empty_lab))


WEB_TO_DB = {"src": ["tag:web"], "dst": ["tag:db"], "ip": ["tcp:5432"]}
PING = {"src": ["*"], "dst": ["*"], "ip": ["icmp:*"]}


def test_a_port_closes_while_another_connection_goes_on(network: Network) -> None:
    a, b, c = network.a, network.b, network.c
    network.set(WEB_TO_DB, {"src": ["node:a"], "dst": ["node:b"], "ip": ["tcp:22"]}, PING)
    with serving(b, b.address, 5432), serving(b, b.address, 22), serving(b, b.address, 80):
        assert may_connect(a, b.address, 5432)
        assert not may_connect(a, b.address, 80)
        assert not may_connect(c, b.address, 5432)
        assert c.reaches(b.address)
        database, shell = connect(a, b.address, 5432), connect(a, b.address, 22)
        assert database is not None
        assert shell is not None
        with database, shell:
            assert echoes(database)
            assert echoes(shell)
            network.tag(a, 0)
            wait_until(lambda: not echoes(database, 0.3), "the connection to the database is cut")
            assert echoes(shell)
            assert not may_connect(a, b.address, 5432)
            assert may_connect(a, b.address, 22)
            network.tag(a, WEB)
            wait_until(lambda: may_connect(a, b.address, 5432), "the database can be reached again")


def test_nodes_have_only_the_peers_that_a_grant_connects_with_them(network: Network) -> None:
    a, b, c = network.a, network.b, network.c
    network.set(WEB_TO_DB)
    wait_until(lambda: a.device().peers.keys() == {b.public_key}, "a has b")
    wait_until(lambda: b.device().peers.keys() == {a.public_key}, "b has a")
    wait_until(lambda: not c.device().peers, "c has no peer")
    network.set()
    wait_until(lambda: len(c.device().peers) == 2, "c has all peers again")
    c.wait_reaches(b.address)


def test_rules_that_another_program_removes_are_set_again(network: Network) -> None:
    b = network.b
    network.set(WEB_TO_DB)
    table = b.namespace.run("nft", "--stateless", "list", "table", "inet", "dstack_vpn_wg0")
    for edit in (
        ("delete", "table", "inet", "dstack_vpn_wg0"),
        ("flush", "ruleset"),
        ("add", "rule", "inet", "dstack_vpn_wg0", "group_m0", "accept"),
        ("add", "element", "inet", "dstack_vpn_wg0", "members4", "{ 10.77.0.99 : jump group_m0 }"),
    ):
        b.namespace.run("nft", *edit)
        wait_until(
            lambda: (
                b.namespace.run("nft", "--stateless", "list", "table", "inet", "dstack_vpn_wg0", check=False)
                == table
            ),
            f"the table is whole after {edit}",
        )


def test_a_killed_daemon_leaves_the_policy_in_force(network: Network) -> None:
    """The next daemon changes the table that is left in one transaction."""
    a, b = network.a, network.b
    network.set(WEB_TO_DB, PING)
    with serving(b, b.address, 80), serving(b, b.address, 5432), attempts(a, b.address, 80) as tried:
        for number in (signal.SIGKILL, signal.SIGTERM):
            b.stop(number)
            before = len(tried)
            wait_until(lambda before=before: len(tried) > before + 20, "some attempts")  # type: ignore[misc]
            b.start()
            wait_until(lambda: may_connect(a, b.address, 5432), "b is back")
        assert not any(tried)


@contextmanager
def attempts(node: LabNode, address: str, port: int) -> Iterator[list[bool]]:
    """Try to connect again and again; collect the outcomes."""
    outcomes: list[bool] = []
    ended = threading.Event()

    def work() -> None:
        while not ended.is_set():
            found = connect(node, address, port, wait=0.05)
            outcomes.append(found is not None)
            if found is not None:
                found.close()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield outcomes
    finally:
        ended.set()
        thread.join()
