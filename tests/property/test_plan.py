"""Plans on a device with WireGuard's semantics: convergence, untouched peers, and undo."""

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from ipaddress import IPv4Network
from typing import TypeAlias

from hypothesis import given
from hypothesis import strategies as st
from tests.memory_device import MemoryDevice
from tests.scripted import key

from dstack_vpn.core.access.control import Decision, Reason
from dstack_vpn.core.access.membership import Delta
from dstack_vpn.core.access.plan import NOBODY, Plan, brake, differing, plan, plan_deltas
from dstack_vpn.core.model import DeviceState, Peer, PeerChange, PeerState, RemovePeer, SetPeer, SocketAddress
from dstack_vpn.core.paths.destination import Destinations
from dstack_vpn.core.paths.moving import Evidence
from dstack_vpn.core.wireguard.keys import PublicKey

PREFIXES = [f"10.77.0.{n}/32" for n in range(1, 9)]
hosts = st.sampled_from(["192.0.2.1", "192.0.2.2"])
endpoints = st.one_of(st.none(), st.builds(SocketAddress, hosts, st.just(1)))
Peers: TypeAlias = dict[PublicKey, Peer]
NOW = 1000.0
EVIDENCE = Evidence(NOW)


@st.composite
def peer_sets(draw: st.DrawFn) -> Peers:
    """Draw peers that share no prefix, as addressing guarantees."""
    keys = draw(st.lists(st.integers(0, 7), unique=True, max_size=8))
    prefixes = draw(st.permutations(PREFIXES))
    peers = {}
    for number in keys:
        count = draw(st.integers(0, 2))
        mine, prefixes = prefixes[:count], prefixes[count:]
        peer = Peer(key(number), frozenset(mine), draw(endpoints), draw(st.sampled_from([0, 25])))
        peers[peer.public_key] = peer
    return peers


def settled(peers: Iterable[Peer]) -> dict[PublicKey, PeerState]:
    return {
        p.public_key: PeerState(p.public_key, p.allowed_ips, p.endpoint, p.keepalive, last_handshake=NOW)
        for p in peers
    }


def run(before: Peers, changes: Iterable[PeerChange], *more: PeerChange) -> dict[PublicKey, PeerState]:
    """Return the state of a device that had ``before``, after the changes."""
    device = MemoryDevice()

    async def work() -> None:
        await device.apply(
            [SetPeer(p.public_key, p.endpoint, p.keepalive, p.allowed_ips) for p in before.values()]
        )
        await device.apply([*changes, *more])

    asyncio.run(work())
    return {k: PeerState(k, p.allowed_ips, p.endpoint, p.keepalive, NOW) for k, p in device.peers.items()}


def make(before: Peers, after: Peers) -> Plan:
    sent = {k: p.endpoint for k, p in before.items() if p.endpoint is not None}
    return plan(DeviceState(None, 1, peers=settled(before.values())), after, sent, {}, EVIDENCE)


def without_endpoints(peers: Iterable[PeerState | Peer]) -> set[tuple[object, ...]]:
    return {(p.public_key, p.allowed_ips, p.keepalive) for p in peers}


@given(peer_sets(), peer_sets())
def test_a_plan_leads_to_the_desired_peers_and_then_there_is_none(before: Peers, after: Peers) -> None:
    steps = make(before, after)
    device = run(before, steps.changes)
    assert without_endpoints(device.values()) == without_endpoints(after.values())
    for k, peer in after.items():
        assert peer.endpoint is None or device[k].endpoint == peer.endpoint or k in steps.waiting
    sent = {k: p.endpoint for k, p in after.items() if p.endpoint is not None}
    again = plan(DeviceState(None, 1, peers=device), after, sent, {}, EVIDENCE)
    assert not again


@given(peer_sets(), peer_sets(), st.sets(st.integers(0, 7).map(key)), st.sampled_from([0.0, NOW - 181, NOW]))
def test_a_session_never_goes_on_at_an_address_that_has_not_answered(
    before: Peers, after: Peers, silent: set[PublicKey], handshake: float
) -> None:
    states = {k: replace(state, last_handshake=handshake) for k, state in settled(before.values()).items()}
    sent = {k: p.endpoint for k, p in before.items() if p.endpoint is not None}
    steps = plan(DeviceState(None, 1, peers=states), after, sent, {}, Evidence(NOW, silent))
    device, fresh = dict(states), set[PublicKey]()
    for change in steps.changes:
        k = change.public_key
        if isinstance(change, RemovePeer):
            device.pop(k, None)
            fresh.add(k)
        elif change.endpoint is not None and k in device:
            was = device[k]
            alive = k not in fresh and was.last_handshake > NOW - 180 and was.endpoint is not None
            assert not alive, "data of a live session would go there"
    for k in steps.waiting:
        assert k not in silent, "a peer that does not answer is tried at its new endpoint"
        assert handshake > NOW - 180, "without a session there is nothing to wait for"


@given(peer_sets(), peer_sets())
def test_who_stays_as_he_is_is_not_touched(before: Peers, after: Peers) -> None:
    touched = {change.public_key for change in make(before, after).changes}
    same = {k for k in before.keys() & after.keys() if before[k] == after[k]}
    assert not touched & same


@given(peer_sets(), peer_sets())
def test_removals_come_first_and_an_allowed_ip_moves_in_one_step(before: Peers, after: Peers) -> None:
    steps = make(before, after)
    kinds = [isinstance(step.change, RemovePeer) for step in steps.steps]
    assert kinds == sorted(kinds, reverse=True)
    wanted = {prefix: k for k, p in after.items() for prefix in p.allowed_ips}
    for change in steps.changes:
        if isinstance(change, RemovePeer):
            continue
        k, prefixes = change.public_key, change.allowed_ips or frozenset()
        assert all(wanted.get(prefix, NOBODY) == k for prefix in prefixes)
        assert not change.replace_allowed_ips, "it would leave the peer without any for a moment"
    keepalive = [bool(each.change.keepalive) for each in steps.others if isinstance(each.change, SetPeer)]
    assert keepalive == sorted(keepalive)


def test_a_network_moves_without_a_change_of_its_former_peer() -> None:
    one, other = (Peer(key(n), frozenset({PREFIXES[n]})) for n in (1, 2))
    behind = frozenset({"10.9.0.0/24"})
    before = {key(1): replace(one, allowed_ips=one.allowed_ips | behind), key(2): other}
    after = {key(1): one, key(2): replace(other, allowed_ips=other.allowed_ips | behind)}
    claim = (SetPeer(key(2), allowed_ips=behind),)
    assert make(before, after).changes == claim
    decision = Decision(granted=True, reason=Reason.ACTIVE)
    deltas = [Delta(k, before[k], after[k], decision) for k in before]
    assert plan_deltas(deltas).changes == claim
    assert run(before, claim)[key(1)].allowed_ips == one.allowed_ips
    cut = make(after, {key(1): one, key(2): other})
    assert cut.changes == (SetPeer(NOBODY, allowed_ips=behind), RemovePeer(NOBODY), SetPeer(key(2)))


@given(peer_sets(), peer_sets())
def test_undo_takes_back_all_but_the_removals(before: Peers, after: Peers) -> None:
    steps = make(before, after)
    device = run(before, steps.changes, *steps.undo)
    stay = {
        key: replace(peer, allowed_ips=peer.allowed_ips & after[key].allowed_ips)
        for key, peer in before.items()
        if key in after
    }
    assert without_endpoints(device.values()) == without_endpoints(stay.values())


@given(peer_sets(), peer_sets())
def test_deltas_lead_to_the_same_peers(before: Peers, after: Peers) -> None:
    # A token has one address and one key at a time: a peer's prefixes change only with its key's
    # token.
    decision = Decision(granted=True, reason=Reason.ACTIVE)
    taken = frozenset[str]().union(*(peer.allowed_ips for peer in before.values()))
    free = {k: p for k, p in after.items() if k in before or not p.allowed_ips & taken}
    wanted = {k: before.get(k, p) for k, p in free.items()}
    deltas = [Delta(k, before.get(k), wanted.get(k), decision) for k in {*before, *wanted}]
    steps = plan_deltas([d for d in deltas if d.old != d.new])
    assert without_endpoints(run(before, steps.changes).values()) == without_endpoints(wanted.values())


def test_a_roamed_endpoint_is_left_alone_while_the_session_lives() -> None:
    ours, roamed, other = (SocketAddress(f"192.0.2.{n}", 1) for n in (1, 2, 3))
    peer = Peer(key(1), frozenset({PREFIXES[0]}), ours)

    def steps(wanted: Peer, handshake: float, sent: SocketAddress | None) -> Plan:
        state = PeerState(key(1), peer.allowed_ips, roamed, 0, handshake)
        known = {} if sent is None else {key(1): sent}
        return plan(DeviceState(None, 1, peers={key(1): state}), {key(1): wanted}, known, {}, EVIDENCE)

    assert not steps(peer, NOW - 100, ours)
    assert not steps(peer, NOW - 100, None)
    moved = Peer(key(1), peer.allowed_ips, other)
    assert not steps(moved, NOW - 100, ours)
    assert steps(moved, NOW - 100, ours).waiting == {key(1)}
    assert steps(moved, NOW - 181, ours).changes == (SetPeer(key(1), other),)
    assert steps(peer, NOW - 181, ours).changes == (SetPeer(key(1), ours),)


def test_a_silent_peer_is_reached_at_its_new_endpoint_without_its_session() -> None:
    old, new = SocketAddress("192.0.2.1", 1), SocketAddress("192.0.2.2", 1)
    peer = Peer(key(1), frozenset({PREFIXES[0]}), new, 25)
    device = DeviceState(None, 1, 0, {key(1): PeerState(key(1), peer.allowed_ips, old, 25, NOW - 20)})

    def steps(evidence: Evidence) -> Plan:
        return plan(device, {key(1): peer}, {key(1): old}, {}, evidence)

    anew = SetPeer(key(1), new, 25, peer.allowed_ips)
    assert steps(Evidence(NOW)).waiting == {key(1)}
    assert steps(Evidence(NOW, silent={key(1)})).changes == (RemovePeer(key(1)), anew)
    assert steps(Evidence(NOW, proven={key(1)})).changes == (SetPeer(key(1), new),)


def test_a_peer_that_strays_into_the_tunnel_is_set_anew() -> None:
    inside = SocketAddress("10.77.0.3", 51820)
    destinations = Destinations((IPv4Network("10.77.0.0/16"),))
    for ours in (None, SocketAddress("192.0.2.1", 1)):
        peer = Peer(key(1), frozenset({PREFIXES[0]}), ours)
        states = {key(1): PeerState(key(1), peer.allowed_ips, inside, 0, NOW)}
        assert differing(states, {key(1): peer}, [key(1)], destinations) == [key(1)]
        evidence = Evidence(NOW, destinations=destinations)
        steps = plan(DeviceState(None, 1, 0, states), {key(1): peer}, {}, {}, evidence)
        assert steps.changes == (RemovePeer(key(1)), SetPeer(key(1), ours, allowed_ips=peer.allowed_ips))


def test_the_brake() -> None:
    peers = {key(n): Peer(key(n), frozenset({PREFIXES[n]})) for n in range(6)}
    few = dict(list(peers.items())[:2])
    half = dict(list(peers.items())[:3])
    assert brake(make(peers, few), 6)
    assert not brake(make(peers, half), 6)
    four = dict(list(peers.items())[:4])
    assert not brake(make(four, {}), 4)
    assert not make(peers, few).keeping(peers)


def test_a_relays_port_of_the_process_before_us_is_replaced_at_once() -> None:
    ours, left = SocketAddress("192.0.2.1", 1), SocketAddress("127.0.0.1", 40_000)
    peer = Peer(key(1), frozenset({"10.77.0.2/32"}), ours)
    device = DeviceState(None, 1, 0, {key(1): PeerState(key(1), peer.allowed_ips, left, 0, NOW)})
    (step,) = plan(device, {key(1): peer}, {}, {}, EVIDENCE).steps
    # The session may be alive, so it is reset: the host at the other address is unknown.
    assert step.changes == (RemovePeer(key(1)), SetPeer(key(1), ours, allowed_ips=peer.allowed_ips))
    assert not plan(device, {key(1): peer}, {key(1): ours}, {}, EVIDENCE)
