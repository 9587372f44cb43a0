"""`node info` shows the access decision, not the contract's flag, by name or tunnel address."""

import json
import time

import pytest
from tests.anvil import key_of
from tests.unit.cli.conftest import Cli

from dstack_vpn.adapters.admin.reading import RegistrySnapshot
from dstack_vpn.core.chain.contract import ContractState
from dstack_vpn.core.chain.node import Node
from dstack_vpn.core.chain.registry import Registry
from dstack_vpn.core.model import BlockRef, Malformed
from dstack_vpn.core.paths.peer_endpoint import PeerEndpoint
from dstack_vpn.wiring import node as wiring

AT = BlockRef(12, "0x" + "1" * 64, "0x" + "0" * 64, 1)
OWNER = "0x" + "a" * 40
LONG = "n" * 63
FUTURE = int(time.time()) + 3600  # noqa: TID251  # the command reads the clock
NODES = (
    Node(1, OWNER, "current", key_of(1), expires_at=FUTURE),
    Node(2, OWNER, "old", key_of(2), expires_at=5),
    Node(
        3,
        OWNER,
        LONG,
        key_of(3),
        endpoint=PeerEndpoint.parse("vpn.example.org:1,tls://" + "a" * 50 + ".org:443"),
    ),
    Node(4, OWNER, "gone", key_of(4), active=False),
    Node(5, OWNER, "tagged", key_of(5), tags=0b1101, routes=("10.0.0.0/8", "fd00::/8")),
    Node(6, OWNER, "forged", key_of(6), routes=Malformed("routes: not a network")),
)
CONTRACT = ContractState(is_read=True, tag_names=("web", "db", "3"))


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    class Access:
        async def one(self, _: object) -> RegistrySnapshot:
            return RegistrySnapshot(
                Registry.of(NODES, CONTRACT), AT, "http://scripted.example", complete=True
            )

    monkeypatch.setattr(wiring, "registry_access", lambda _: Access())


@pytest.mark.parametrize(
    ("token", "granted", "reason"), [(1, True, "active"), (2, False, "expired"), (4, False, "revoked")]
)
def test_it_shows_the_decision(cli: Cli, token: int, granted: bool, reason: str) -> None:
    found = json.loads(cli("node", "info", str(token), "--json").out)
    assert (found["granted"], found["reason"]) == (granted, reason)
    for name in (f"token:{token}", *found["addresses"]):
        assert json.loads(cli("node", "info", name, "--json").out) == found
        shown = cli("node", "info", name).out
        assert f"{'granted' if granted else 'denied'}: {reason}" in shown
        assert granted or "active" not in shown


def test_nothing_is_left_out_at_80_columns(cli: Cli) -> None:
    shown = cli("node", "info", "3").out
    assert LONG in shown and "a" * 50 in shown


def test_tags_have_their_names_or_else_numbers(cli: Cli) -> None:
    found = json.loads(cli("node", "info", "tagged", "--json").out)
    assert (found["tags"], found["routes"]) == (["web", "3", 3], ["10.0.0.0/8", "fd00::/8"])
    shown = cli("node", "info", "tagged").out
    assert "web, 3, #3" in shown and "10.0.0.0/8, fd00::/8" in shown


def test_malformed_routes_are_a_problem(cli: Cli) -> None:
    found = json.loads(cli("node", "info", "forged", "--json").out)
    assert (found["routes"], found["problems"]) == (None, ["routes: not a network"])


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("10.77.0.99", "no such node"),
        ("192.0.2.1", "belongs to no token"),
    ],
)
def test_an_address_of_no_node(cli: Cli, name: str, said: str) -> None:
    ran = cli("node", "info", name)
    assert (ran.code, ran.out) == (1, "")
    assert said in ran.err


def test_a_key_is_no_name_of_a_node(cli: Cli) -> None:
    ran = cli("node", "info", str(key_of(1)))
    assert ran.code == 2
    assert "a node id, a token id or a tunnel address" in ran.err
