"""The choice of an exit among the nodes that EXIT_NODE names."""

from ipaddress import IPv4Network

import pytest
from tests.scripted import key

from dstack_vpn.core.access.addressing import AddressPlan, unique_local_prefix
from dstack_vpn.core.access.control import AccessControl
from dstack_vpn.core.access.exits import NOT_PERMITTED, ExitCandidate, ExitChoice, exit_candidate
from dstack_vpn.core.access.gateways import RETURN
from dstack_vpn.core.access.roles import Standing
from dstack_vpn.core.chain.contract import ContractState
from dstack_vpn.core.chain.node import Node
from dstack_vpn.core.chain.registry import Registry
from dstack_vpn.core.paths.peer_endpoint import PeerEndpoint

PLAN = AddressPlan(IPv4Network("10.77.0.0/16"), unique_local_prefix(1, "0x" + "0" * 40))
BOTH = ("0.0.0.0/0", "::/0")
NODES = (
    Node(0, "0xa", "me", key(0), routes=BOTH),
    Node(1, "0xa", "gw-1", key(1), routes=("10.9.0.0/24", *BOTH)),
    Node(2, "0xa", "gw-2", key(2), routes=("0.0.0.0/0",)),
    Node(3, "0xa", "db", key(3), routes=("10.9.0.0/24",)),
    Node(4, "0xa", "gone", key(4), routes=BOTH, active=False),
    Node(5, "0xa", "old", key(5), routes=BOTH, expires_at=99),
    Node(6, "0xa", "phone", key(6), PeerEndpoint.parse("via:gw-1"), routes=BOTH),
    Node(7, "0xa", "bare", None, routes=BOTH),
)
A, U, S = Standing.ALIVE, Standing.UNJUDGED, Standing.SILENT


def access() -> AccessControl:
    return AccessControl(Registry.of(NODES, ContractState(tag_names=("gateway",))), PLAN, key(0), 99)


def judged(name: str, *, permitted: bool = True) -> ExitCandidate:
    return exit_candidate(access(), name, lambda: permitted, 100.0)


def test_a_node_with_a_default_route_is_an_exit() -> None:
    assert judged("gw-1") == ExitCandidate("gw-1", None, 1, key(1), frozenset({4, 6}))
    assert judged("gw-2").versions == {4}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("nobody", "there is no such node"),
        ("me", "it is this node"),
        ("db", "it is not an exit: its routes have neither 0.0.0.0/0 nor ::/0"),
        ("gone", "it is not on the network: revoked"),
        ("old", "it is not on the network: expired"),
        ("phone", "it is a client of a gateway, and forwards nothing"),
        ("bare", "it is not on the network: no key"),
    ],
)
def test_a_name_that_can_not_be_used_has_a_reason(name: str, reason: str) -> None:
    assert judged(name) == ExitCandidate(name, reason)
    assert judged("gw-1", permitted=False).problem == NOT_PERMITTED


ONE, TWO = judged("gw-1"), judged("gw-2")


@pytest.mark.parametrize(
    "steps",
    [
        # In order of preference, and back when the preferred one was alive for a while.
        [(0, (U, U), "gw-1"), (1, (S, U), "gw-2"), (2, (A, A), "gw-2"), (1.9 + RETURN, (A, A), "gw-2")],
        [(0, (S, A), "gw-2"), (2, (A, A), "gw-2"), (2 + RETURN, (A, A), "gw-1")],
        [(0, (A, S), "gw-1"), (1, (S, S), "gw-1"), (2, (S, A), "gw-2")],
        # One that can't be used is as one that is not named.
        [(0, (None, A), "gw-2"), (1, (None, S), "gw-2"), (2, (None, None), None), (3, (A, None), "gw-1")],
    ],
)
def test_the_exit_in_use(
    steps: list[tuple[float, tuple[Standing | None, Standing | None], str | None]],
) -> None:
    choice = ExitChoice()
    for now, standings, expected in steps:
        candidates, found = [], {}
        for candidate, standing in zip((ONE, TWO), standings, strict=True):
            refused = candidate._replace(problem="revoked")
            candidates.append(refused if standing is None else candidate)
            if standing is not None and candidate.key is not None:
                found[candidate.key] = standing
        used = choice.choose(candidates, found, now)
        assert (used and used.name) == expected, now


def test_the_order_of_the_setting_counts_and_not_the_token() -> None:
    assert ExitChoice().choose([TWO, ONE], {}, 0.0) == TWO


def test_an_exit_that_loses_a_version_stays() -> None:
    choice = ExitChoice()
    choice.choose([ONE, TWO], {}, 0.0)
    less = ONE._replace(versions=frozenset({6}))
    assert choice.choose([less, TWO], {}, 1.0) == less
