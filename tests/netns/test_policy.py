"""A policy on real daemons, WireGuard and chain: connections that begin, go on, and end."""

import re
import signal

import pytest
from demo.echo import connect, echoes, serving
from demo.lab import Lab
from tests.netns.conftest import connect_three
from tests.netns.policies import WEB, Network, attempts, may_connect
from tests.netns_support import wait_until

pytestmark = [pytest.mark.netns, pytest.mark.anvil]


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
    (rights,) = re.findall(r"chain (rights_\w+)", table)
    for edit in (
        ("delete", "table", "inet", "dstack_vpn_wg0"),
        ("flush", "ruleset"),
        ("add", "rule", "inet", "dstack_vpn_wg0", rights, "accept"),
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
