"""Handshakes are initiated with the peers of a new device, but not of an adopted one."""

from dataclasses import replace

import pytest
from tests.memory_device import MemoryDevice
from tests.scripted import grant, key
from tests.unit.daemon.conftest import Bench, eventually

from dstack_vpn.adapters.clock import SystemClock
from dstack_vpn.core.access.membership import PeerPolicy
from dstack_vpn.core.chain.events import Granted, Revoked
from dstack_vpn.core.limits.time_share import TimeShare
from dstack_vpn.core.model import PeerState, SetPeer, SocketAddress
from dstack_vpn.core.paths.peer_endpoint import PeerEndpoint
from dstack_vpn.core.wireguard.keys import PrivateKey, PublicKey
from dstack_vpn.daemon.daemon import Daemon
from dstack_vpn.daemon.observe import peer_stats
from dstack_vpn.daemon.peers import handshakes

HERE = SocketAddress("192.0.2.1", 51820)
THERE = SocketAddress("192.0.2.2", 40000)


def calls(bench: Bench, peer: PublicKey) -> list[SetPeer]:
    """Return the changes that set a peer's keepalive without its allowed IPs."""
    applied = [] if bench.link.device is None else bench.link.device.applied
    changes = (change for change in applied if isinstance(change, SetPeer))
    return [c for c in changes if c.public_key == peer and c.allowed_ips is None and c.keepalive is not None]


def call_of(peer: PublicKey, place: SocketAddress | None, keepalive: int = 0) -> list[SetPeer]:
    """Return the changes of a handshake initiation: keepalive off, on, and back to its value."""
    return [SetPeer(peer, place, 0), SetPeer(peer, keepalive=25), SetPeer(peer, keepalive=keepalive)]


def policy(keepalive: int = 0) -> PeerPolicy:
    return PeerPolicy({"node-1": PeerEndpoint.parse(str(HERE), local=True)}, keepalive=keepalive)


@pytest.mark.parametrize("keepalive", [0, 15])
async def test_peers_of_a_new_device_are_called_where_they_are_known(bench: Bench, keepalive: int) -> None:
    bench.policy = policy(keepalive)
    bench.memory.saved = {key(2): THERE}
    bench.chain.mine(grant(1), grant(2), grant(3))
    async with bench.running():
        await eventually(lambda: calls(bench, key(2))[2:])
        for peer, place in ((key(1), None), (key(2), THERE)):  # one has an endpoint on the device
            assert calls(bench, peer)[:3] == call_of(peer, place, keepalive)
        assert not calls(bench, key(3)), "nobody knows where it is"


async def test_a_peer_with_a_session_is_left_alone_and_its_place_remembered(bench: Bench) -> None:
    bench.policy = policy()
    bench.chain.mine(grant(1))
    async with bench.running() as node:
        await eventually(lambda: calls(bench, key(1))[2:])
        sent = len(bench.device.applied)
        peer = bench.device.peers[key(1)]
        bench.device.peers[key(1)] = replace(peer, endpoint=THERE, last_handshake=SystemClock().now())
        node.reconciler.request_repair()
        await eventually(lambda: bench.memory.saved == {key(1): THERE})
        assert bench.device.applied[sent:] == []


async def test_a_device_that_vanished_and_came_back_has_its_peers_called(bench: Bench) -> None:
    bench.policy = policy()
    bench.chain.mine(grant(1))
    async with bench.running():
        await eventually(lambda: calls(bench, key(1))[2:])
        first: MemoryDevice = bench.device
        first.vanish()
        await eventually(lambda: bench.device is not first and calls(bench, key(1))[2:])


async def test_a_peer_that_somebody_took_away_is_called_when_it_is_back(bench: Bench) -> None:
    bench.policy = policy()
    bench.chain.mine(grant(1), grant(2))
    async with bench.running() as node:
        await eventually(lambda: calls(bench, key(1))[2:])
        for number in (1, 2):
            peer = bench.device.peers[key(number)]
            bench.device.peers[key(number)] = replace(peer, last_handshake=SystemClock().now())
        await node.reconciler.repair()
        sent = len(calls(bench, key(1)))
        del bench.device.peers[key(1)]
        await node.reconciler.repair()
        await eventually(lambda: calls(bench, key(1))[sent + 2 :])
        assert calls(bench, key(1))[sent : sent + 3] == call_of(key(1), None)
        assert not calls(bench, key(2)), "it has kept its session"


async def test_a_call_without_an_answer_is_made_again_until_there_is_a_session(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handshakes, "AGAIN", 0.02)
    monkeypatch.setattr(handshakes, "JITTER", 0.01)
    bench.policy = policy()
    bench.chain.mine(grant(1))
    async with bench.running() as node:
        await eventually(lambda: len(calls(bench, key(1))) >= 3 * 2)
        peer = bench.device.peers[key(1)]
        assert peer.allowed_ips == node.tunnel.members.membership.peers[key(1)].allowed_ips
        bench.device.peers[key(1)] = replace(peer, last_handshake=SystemClock().now())
        await eventually(lambda: not node.handshakes._initiations)
        made = len(calls(bench, key(1)))
        await node.reconciler.repair()
        assert len(calls(bench, key(1))) == made


async def test_a_peer_that_never_answers_is_called_four_times(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handshakes, "AGAIN", 0.01)
    monkeypatch.setattr(handshakes, "JITTER", 0.01)
    bench.policy = policy()
    bench.chain.mine(grant(1))
    async with bench.running() as node:
        await eventually(
            lambda: len(calls(bench, key(1))) == 3 * handshakes.ATTEMPTS and not node.handshakes._initiations
        )


async def test_a_call_never_brings_a_revoked_peer_back(bench: Bench) -> None:
    bench.policy = policy()
    bench.chain.mine(grant(1))
    async with bench.running() as node:
        await eventually(lambda: calls(bench, key(1))[2:])
        bench.source.tell(bench.chain.mine(Revoked(1)))
        await eventually(lambda: bench.tokens() == set())
        await node.reconciler.executor.initiate({key(1): HERE}, reset=True)
        assert key(1) not in bench.device.peers


async def test_a_peer_that_is_lost_while_others_are_called_is_called_too(bench: Bench) -> None:
    bench.policy = policy()
    bench.chain.mine(grant(1), grant(2))
    async with bench.running() as node:
        await eventually(lambda: calls(bench, key(1))[2:])
        now = SystemClock().now()
        for number in (1, 2):
            peer = bench.device.peers[key(number)]
            bench.device.peers[key(number)] = replace(peer, endpoint=HERE, last_handshake=now)
        await node.reconciler.repair()
        async with node.reconciler.executor.lock:  # the initiation below has to wait here
            first = await lose(bench, node, 1)
            await eventually(lambda: not node.handshakes._lost)
            second = await lose(bench, node, 2)
        await eventually(lambda: len(calls(bench, key(1))) >= first + 3)
        await eventually(lambda: len(calls(bench, key(2))) >= second + 3)


async def lose(bench: Bench, node: Daemon, number: int) -> int:
    """End a peer's session; return the number of changes for its earlier initiations."""
    made = len(calls(bench, key(number)))
    bench.device.peers[key(number)] = replace(bench.device.peers[key(number)], last_handshake=0.0)
    node.handshakes.observe(await bench.device.read())
    return made


async def test_a_peer_that_is_granted_again_within_a_session_is_called(bench: Bench) -> None:
    bench.policy = policy()
    bench.chain.mine(grant(1))
    async with bench.running() as node:
        await eventually(lambda: calls(bench, key(1))[2:])
        peer = bench.device.peers[key(1)]
        bench.device.peers[key(1)] = replace(peer, last_handshake=SystemClock().now())
        await node.reconciler.repair()
        bench.source.tell(bench.chain.mine(Revoked(1)))
        await eventually(lambda: bench.tokens() == set())
        await node.reconciler.repair()
        made = len(calls(bench, key(1)))
        bench.source.tell(bench.chain.mine(Granted(2, "0xa", "node-1", key(1))))
        await eventually(lambda: len(calls(bench, key(1))) >= made + 3)


async def test_a_device_that_somebody_gave_another_key_and_port_has_its_own_again(bench: Bench) -> None:
    bench.policy = policy()
    bench.chain.mine(grant(1))
    async with bench.running() as node:
        await eventually(lambda: calls(bench, key(1))[2:])
        right, sent = await bench.device.read(), len(calls(bench, key(1)))
        await bench.device.configure(PrivateKey(bytes(range(32))), 4242)
        assert (await bench.device.read()).public_key != right.public_key
        await node.reconciler.repair()
        found = await bench.device.read()
        assert (found.public_key, found.listen_port) == (right.public_key, right.listen_port)
        assert found.peers.keys() == right.peers.keys()
        await eventually(lambda: calls(bench, key(1))[sent + 2 :])


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the pauses be short."""
    monkeypatch.setattr(handshakes, "AGAIN", 0.02)
    monkeypatch.setattr(handshakes, "JITTER", 0.01)
    monkeypatch.setattr(handshakes, "TICK", 0.02)
    monkeypatch.setattr(peer_stats, "READING", TimeShare(parts=1, least=0.02))


async def grant_more(bench: Bench, node: Daemon, *numbers: int) -> None:
    """Grant access to nodes with an endpoint, on a device that has peers already."""
    await eventually(lambda: calls(bench, key(1))[2:])
    first = bench.device.peers[key(1)]
    bench.device.peers[key(1)] = replace(first, last_handshake=SystemClock().now())
    bench.source.tell(bench.chain.mine(*map(grant, numbers)))
    await eventually(lambda: bench.tokens() == {1, *numbers})
    await node.reconciler.repair()


def send(bench: Bench, number: int) -> None:
    """Let WireGuard send an initiation to a peer."""
    bench.device.peers[key(number)] = replace(bench.device.peers[key(number)], endpoint=THERE, tx_bytes=148)


@pytest.mark.usefixtures("eager")
async def test_an_initiation_to_a_new_peer_is_repeated_from_its_first_packet_on(bench: Bench) -> None:
    bench.policy = policy()
    bench.chain.mine(grant(1))
    async with bench.running() as node:
        await grant_more(bench, node, 2, 3)
        await eventually(lambda: node.handshakes._idle == {key(2), key(3)})
        assert not calls(bench, key(2)), "nothing was sent to it"
        send(bench, 2)
        await eventually(lambda: len(calls(bench, key(2))) >= 3 * 2)
        assert calls(bench, key(2))[:3] == call_of(key(2), THERE)
        assert not calls(bench, key(3))
        peer = bench.device.peers[key(2)]
        bench.device.peers[key(2)] = replace(peer, last_handshake=SystemClock().now())
        await eventually(lambda: not node.handshakes._initiations)


@pytest.mark.usefixtures("eager")
async def test_a_new_peer_with_a_session_is_left_alone(bench: Bench) -> None:
    bench.policy = policy()
    bench.chain.mine(grant(1))
    async with bench.running() as node:
        await grant_more(bench, node, 2, 3)
        peer = replace(bench.device.peers[key(2)], endpoint=THERE, tx_bytes=148)
        bench.device.peers[key(2)] = replace(peer, last_handshake=SystemClock().now())
        await eventually(lambda: node.handshakes._idle == {key(3)})
        assert key(2) not in node.handshakes._initiations
        bench.source.tell(bench.chain.mine(Revoked(3)))
        await eventually(lambda: node.handshakes._idle == set())
        assert not calls(bench, key(2)) + calls(bench, key(3))


@pytest.mark.usefixtures("eager")
async def test_few_of_many_new_peers_are_initiated_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handshakes, "MOST_RETRIED", 2)
    bench.policy = policy()
    bench.chain.mine(grant(1))
    numbers = range(2, 9)
    async with bench.running() as node:
        await grant_more(bench, node, *numbers)
        await eventually(lambda: not node.handshakes._initiations)
        for number in numbers:
            send(bench, number)
        await eventually(lambda: not node.handshakes._idle and not node.handshakes._initiations)
        made = [len(calls(bench, key(number))) for number in numbers if calls(bench, key(number))]
        assert made == [3 * (handshakes.ATTEMPTS - 1)] * 2


async def test_the_side_with_the_smaller_key_initiates_first(bench: Bench) -> None:
    async with bench.running() as node:
        initiator, now = node.handshakes, SystemClock().monotonic()
        own = bytes(initiator.members.own_key)
        smaller, larger = PublicKey(bytes([own[0] - 1]) + own[1:]), PublicKey(bytes([own[0] + 1]) + own[1:])
        for other in (smaller, larger):
            initiator._note_sent(other, PeerState(other, frozenset(), THERE, tx_bytes=148))
        first, second = (initiator._initiations[other].due for other in (larger, smaller))
        assert first + handshakes.TICK < second, "each side may notice it later by a tick"
        assert second - now < 5.0, "WireGuard initiates again by itself then"


async def test_a_memory_that_fails_is_in_nobodys_way(bench: Bench) -> None:
    bench.policy, bench.memory.broken = policy(), True
    bench.chain.mine(grant(1))
    async with bench.running() as node:
        await eventually(lambda: calls(bench, key(1))[2:])
        peer = bench.device.peers[key(1)]
        bench.device.peers[key(1)] = replace(peer, endpoint=THERE, last_handshake=SystemClock().now())
        node.reconciler.request_repair()
        await eventually(lambda: bench.node.reconciler.compared_at)
        assert bench.component("store") == "ok: "


async def test_at_the_end_the_latest_places_are_kept(bench: Bench) -> None:
    bench.policy = policy()
    bench.chain.mine(grant(1))
    async with bench.running():
        await eventually(lambda: calls(bench, key(1))[2:])
        peer = bench.device.peers[key(1)]
        bench.device.peers[key(1)] = replace(peer, endpoint=THERE, last_handshake=SystemClock().now())
        assert not bench.memory.saved
    assert bench.memory.saved == {key(1): THERE}
