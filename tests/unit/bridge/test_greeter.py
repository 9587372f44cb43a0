"""Peers of a device that was just set up are called; those of one that was adopted are left alone."""

from dataclasses import replace

import pytest
from tests.scripted import grant, key
from tests.unit.bridge.conftest import Bench, eventually

from dstack_vpn.adapters.clock import SystemClock
from dstack_vpn.adapters.device.memory import MemoryDevice
from dstack_vpn.core.desired import PeerPolicy
from dstack_vpn.core.keys import PrivateKey, PublicKey
from dstack_vpn.core.model import SetPeer, SocketAddress
from dstack_vpn.core.reach import Reach

HERE = SocketAddress("192.0.2.1", 51820)
THERE = SocketAddress("192.0.2.2", 40000)


def calls(bench: Bench, peer: PublicKey) -> list[SetPeer]:
    """What was sent to a peer's keepalive alone."""
    applied = [] if bench.link.device is None else bench.link.device.applied
    changes = (change for change in applied if isinstance(change, SetPeer))
    return [c for c in changes if c.public_key == peer and c.allowed_ips is None and c.keepalive is not None]


def policy(keepalive: int = 0) -> PeerPolicy:
    return PeerPolicy({"node-1": Reach.parse(str(HERE), local=True)}, keepalive=keepalive)


@pytest.mark.parametrize("keepalive", [0, 15])
async def test_peers_of_a_new_device_are_called_where_they_are_known(bench: Bench, keepalive: int) -> None:
    bench.policy = policy(keepalive)
    bench.memory.saved = {key(2): THERE}
    bench.chain.mine(grant(1), grant(2), grant(3))
    async with bench.running():
        await eventually(lambda: calls(bench, key(2))[1:])
        for peer, place in ((key(1), HERE), (key(2), THERE)):
            assert calls(bench, peer) == [SetPeer(peer, place, 25), SetPeer(peer, keepalive=keepalive)]
        assert not calls(bench, key(3)), "nobody knows where it is"


async def test_a_peer_with_a_session_is_left_alone_and_its_place_remembered(bench: Bench) -> None:
    bench.policy = policy()
    bench.chain.mine(grant(1))
    async with bench.running() as node:
        await eventually(lambda: calls(bench, key(1))[1:])
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
        await eventually(lambda: calls(bench, key(1))[1:])
        first: MemoryDevice = bench.device
        first.vanish()
        await eventually(lambda: bench.device is not first and calls(bench, key(1))[1:])


async def test_a_peer_that_somebody_took_away_is_called_when_it_is_back(bench: Bench) -> None:
    bench.policy = policy()
    bench.chain.mine(grant(1), grant(2))
    async with bench.running() as node:
        await eventually(lambda: calls(bench, key(1))[1:])
        for number in (1, 2):
            peer = bench.device.peers[key(number)]
            bench.device.peers[key(number)] = replace(peer, last_handshake=SystemClock().now())
        await node.reconciler.repair()
        sent = len(calls(bench, key(1)))
        del bench.device.peers[key(1)]
        await node.reconciler.repair()
        await eventually(lambda: calls(bench, key(1))[sent + 1 :])
        assert calls(bench, key(1))[sent:] == [SetPeer(key(1), HERE, 25), SetPeer(key(1), keepalive=0)]
        assert not calls(bench, key(2)), "it has kept its session"


async def test_a_device_that_somebody_gave_another_key_and_port_has_its_own_again(bench: Bench) -> None:
    bench.policy = policy()
    bench.chain.mine(grant(1))
    async with bench.running() as node:
        await eventually(lambda: calls(bench, key(1))[1:])
        right, sent = await bench.device.read(), len(calls(bench, key(1)))
        await bench.device.configure(PrivateKey(bytes(range(32))), 4242)
        assert (await bench.device.read()).public_key != right.public_key
        await node.reconciler.repair()
        found = await bench.device.read()
        assert (found.public_key, found.listen_port) == (right.public_key, right.listen_port)
        assert found.peers.keys() == right.peers.keys()
        await eventually(lambda: calls(bench, key(1))[sent + 1 :])


async def test_a_memory_that_fails_is_in_nobodys_way(bench: Bench) -> None:
    bench.policy, bench.memory.broken = policy(), True
    bench.chain.mine(grant(1))
    async with bench.running() as node:
        await eventually(lambda: calls(bench, key(1))[1:])
        peer = bench.device.peers[key(1)]
        bench.device.peers[key(1)] = replace(peer, endpoint=THERE, last_handshake=SystemClock().now())
        node.reconciler.request_repair()
        await eventually(lambda: bench.node.facts.applied)
        assert bench.component("store") == "ok: "


async def test_at_the_end_the_latest_places_are_kept(bench: Bench) -> None:
    bench.policy = policy()
    bench.chain.mine(grant(1))
    async with bench.running():
        await eventually(lambda: calls(bench, key(1))[1:])
        peer = bench.device.peers[key(1)]
        bench.device.peers[key(1)] = replace(peer, endpoint=THERE, last_handshake=SystemClock().now())
        assert not bench.memory.saved
    assert bench.memory.saved == {key(1): THERE}
