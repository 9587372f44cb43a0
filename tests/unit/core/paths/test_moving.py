"""Each rule for a peer's new endpoint, and the precedence of the rules."""

from dataclasses import replace
from ipaddress import IPv4Network

import pytest
from tests.scripted import key

from dstack_vpn.core.model import Peer, PeerState, SocketAddress
from dstack_vpn.core.paths.destination import Destinations
from dstack_vpn.core.paths.moving import Evidence, Move, move, strays
from dstack_vpn.core.wireguard.wire import SESSION_LIFE

KEY = key(1)
OLD, NEW = SocketAddress("192.0.2.1", 51820), SocketAddress("192.0.2.2", 51820)
RELAY, INSIDE = SocketAddress("127.0.0.1", 40000), SocketAddress("10.77.0.9", 51820)
NOW = 1_000_000.0
EVIDENCE = Evidence(NOW, destinations=Destinations((IPv4Network("10.77.0.0/16"),)))
SILENT, PROVEN = replace(EVIDENCE, silent={KEY}), replace(EVIDENCE, proven={KEY})


def state(endpoint: SocketAddress | None, age: float = 1.0) -> PeerState:
    return PeerState(KEY, frozenset(), endpoint, last_handshake=NOW - age)


def wish(endpoint: SocketAddress | None) -> Peer:
    return Peer(KEY, frozenset(), endpoint)


@pytest.mark.parametrize(
    ("before", "wanted", "sent", "evidence", "expected"),
    [
        (state(OLD), None, OLD, EVIDENCE, Move.STAY),
        (state(OLD), OLD, OLD, EVIDENCE, Move.STAY),
        (state(NEW), OLD, OLD, EVIDENCE, Move.STAY),  # the peer has roamed
        (state(OLD), NEW, None, EVIDENCE, Move.STAY),  # set by another process; the peer may have roamed
        (state(None), NEW, OLD, EVIDENCE, Move.SET),
        (state(OLD, SESSION_LIFE + 1), NEW, OLD, EVIDENCE, Move.SET),
        (state(OLD), NEW, OLD, EVIDENCE, Move.WAIT),
        (state(OLD), NEW, OLD, SILENT, Move.RESET),
        (state(OLD), NEW, OLD, PROVEN, Move.SET),
        (state(OLD), NEW, OLD, replace(SILENT, proven={KEY}), Move.SET),
        (state(RELAY), NEW, RELAY, EVIDENCE, Move.RESET),
        (state(RELAY), NEW, None, EVIDENCE, Move.RESET),
        (state(INSIDE), OLD, OLD, EVIDENCE, Move.RESET),
        (state(INSIDE), None, OLD, EVIDENCE, Move.RESET),
    ],
)
def test_rules(
    before: PeerState,
    wanted: SocketAddress | None,
    sent: SocketAddress | None,
    evidence: Evidence,
    expected: Move,
) -> None:
    assert move(before, wish(wanted), sent, evidence) is expected


def test_only_an_endpoint_inside_the_tunnel_strays() -> None:
    assert strays(state(INSIDE), EVIDENCE.destinations)
    for endpoint in (None, OLD, RELAY):
        assert not strays(state(endpoint), EVIDENCE.destinations)
