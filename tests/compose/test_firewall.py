"""Leak protection and FORWARD_TO in containers."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from scripts.stack import Stack, docker, inspect, running, wait_for, wait_healthy

from dstack_vpn.adapters.firewall.rendering import table_name

TABLE = table_name("wg0")
FETCH = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=3).read().decode())"
SEND = (
    "import socket, sys; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); "
    "s.sendto(b'secret', (sys.argv[1], 9))"
)


@pytest.fixture(scope="module")
def forwarding() -> Iterator[Stack]:
    stack = Stack(f"dvpn-fwd-{os.getpid()}", ("docker-compose.yml", "tests/compose/forward.yml"))
    with running(stack, "node-a", "node-b", "printer", build=False) as up:
        yield up


def inside(container: str, *command: str, check: bool = True) -> str:
    """Run a program of this machine in a container's network."""
    pid = inspect(container)["State"]["Pid"]
    done = subprocess.run(
        ["nsenter", "-t", str(pid), "-n", *command], capture_output=True, text=True, check=False
    )
    assert not check or done.returncode == 0, done.stderr
    return done.stdout


def dropped(container: str, chain: str) -> int:
    """Return the number of packets that a chain of our table has dropped."""
    listed = json.loads(inside(container, "nft", "-j", "list", "chain", "inet", TABLE, chain))["nftables"]
    rules = (entry["rule"]["expr"] for entry in listed if "rule" in entry)
    return sum(e["counter"]["packets"] for expr in rules for e in expr if "counter" in e)


def sends(container: str, address: str) -> bool:
    """Return whether a container can send a UDP packet."""
    return "PermissionError" not in docker(
        "exec", container, "/usr/bin/python3", "-c", SEND, address, check=False
    )


def test_peers_reach_the_machine_behind_a_node(forwarding: Stack) -> None:
    node_b = forwarding.container("node-b")
    fetch = ("exec", node_b, "/usr/bin/python3", "-c", FETCH)
    assert "hello" in wait_for(
        "an answer", lambda: docker(*fetch, "http://10.77.0.2:8080/", check=False).partition("hello")[1]
    )


def test_what_is_not_forwarded_stays_out(forwarding: Stack) -> None:
    """A peer's packets to the networks behind a node do not leave the node's tunnel."""
    node_a, node_b = forwarding.container("node-a"), forwarding.container("node-b")
    networks = inspect(forwarding.container("printer"))["NetworkSettings"]["Networks"]
    (printer,) = (network["IPAddress"] for network in networks.values())
    before = dropped(node_a, "prerouting_raw")
    # A hostile peer controls its own WireGuard, and can send any packets.
    inside(node_b, "ip", "route", "replace", f"{printer}/32", "dev", "wg0")
    peer = forwarding.status("node-a")["stats"]["public_key"]
    socket_program = (
        "import socket; s = socket.socket(socket.AF_UNIX); s.connect('/run/wireguard/wg0.sock');"
        f"s.sendall(b'set=1\\npublic_key=' + bytes(__import__('base64').b64decode('{peer}')).hex().encode()"
        f" + b'\\nallowed_ip={printer}/32\\n\\n'); print(s.recv(100))"
    )
    docker("exec", node_b, "/usr/bin/python3", "-c", socket_program)
    assert sends(node_b, printer)
    wait_for("the packet is dropped", lambda: dropped(node_a, "prerouting_raw") > before, 10)


def test_a_packet_for_the_vpn_leaves_by_no_other_interface(forwarding: Stack) -> None:
    node = forwarding.container("node-a")
    lost = "10.77.200.1"
    inside(node, "ip", "route", "replace", f"{lost}/32", "dev", "eth0")
    before = dropped(node, "output")
    assert not sends(node, lost)
    assert dropped(node, "output") == before + 1
    # Without our rules the packet leaves. The daemon would restore them at once.
    docker("pause", node)
    inside(node, "nft", "delete", "table", "inet", TABLE)
    inside(node, sys.executable, "-c", SEND, lost)
    docker("unpause", node)
    wait_for("the rules are set again", lambda: TABLE in inside(node, "nft", "list", "tables"), 30)
    assert not sends(node, lost)
    inside(node, "ip", "route", "del", f"{lost}/32", "dev", "eth0")


def test_the_rules_go_with_the_node(forwarding: Stack) -> None:
    node, holder = forwarding.container("node-a"), forwarding.container("net-a")
    docker("stop", "-t", "3", node)
    assert TABLE not in inside(holder, "nft", "list", "tables")
    docker("start", node)
    wait_healthy(node)
    wait_for("the rules are back", lambda: TABLE in inside(holder, "nft", "list", "tables"))
