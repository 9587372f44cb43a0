"""A member that changes its endpoint: the effect on its session, and the address in use."""

from dataclasses import replace
from ipaddress import IPv4Network

import pytest
from tests.scripted import grant, key
from tests.unit.daemon.conftest import Bench, eventually

from dstack_vpn.adapters.clock import SystemClock
from dstack_vpn.core.access import answers as core_answers
from dstack_vpn.core.access.membership import PeerPolicy
from dstack_vpn.core.chain.events import EndpointUpdated
from dstack_vpn.core.limits.time_share import TimeShare
from dstack_vpn.core.model import PeerState, RemovePeer, SetPeer, SocketAddress
from dstack_vpn.core.paths import selector as transport
from dstack_vpn.core.paths.destination import Destinations
from dstack_vpn.core.paths.peer_endpoint import PeerEndpoint
from dstack_vpn.core.paths.selector import Path
from dstack_vpn.daemon import daemon as node
from dstack_vpn.daemon.observe import answers, peer_stats
from dstack_vpn.daemon.peers import debounce, handshakes, path_keeper

OLD, NEW = SocketAddress("192.0.2.1", 51820), SocketAddress("192.0.2.66", 53)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core_answers, "ANSWER_TO_DATA", 0.05)
    monkeypatch.setattr(answers, "TICK", 0.01)
    monkeypatch.setattr(peer_stats, "READING", TimeShare(0, 0.01))
    monkeypatch.setattr(node, "TICK", 0.01)
    monkeypatch.setattr(debounce, "QUIET", 0.002)


def peer(bench: Bench) -> PeerState:
    return bench.device.peers[key(1)]


def becomes(bench: Bench, endpoint: SocketAddress, *, sent: int = 0, received: int = 0) -> None:
    """Simulate packets from the peer at an endpoint, in a live session; add to the counters."""
    was = peer(bench)
    rx, tx = was.rx_bytes + received, was.tx_bytes + sent
    now = SystemClock().now()
    bench.device.peers[key(1)] = replace(was, endpoint=endpoint, last_handshake=now, rx_bytes=rx, tx_bytes=tx)


async def with_a_live_session(bench: Bench) -> int:
    """Change the endpoint of a member that answers; return the number of changes before that."""
    bench.source.tell(bench.chain.mine(grant(1), EndpointUpdated(1, PeerEndpoint.parse(str(OLD)))))
    await eventually(lambda: bench.tokens() == {1} and peer(bench).endpoint == OLD)
    becomes(bench, OLD)
    applied = len(bench.device.applied)
    bench.source.tell(bench.chain.mine(EndpointUpdated(1, PeerEndpoint.parse(str(NEW)))))
    await eventually(lambda: bench.node.reconciler._waiting == {key(1)})
    return applied


def sent_to(bench: Bench, applied: int, place: SocketAddress) -> list[SetPeer]:
    changes = (c for c in bench.device.applied[applied:] if isinstance(c, SetPeer))
    return [change for change in changes if change.endpoint == place]


async def test_a_changed_endpoint_does_not_move_a_session_that_is_answered(bench: Bench) -> None:
    async with bench.running() as running:
        applied = await with_a_live_session(bench)
        for _ in range(20):
            becomes(bench, OLD, sent=1400, received=92)
            assert await running.reconciler.repair()
        assert peer(bench).endpoint == OLD
        assert sent_to(bench, applied, NEW) == []
        assert RemovePeer(key(1)) not in bench.device.applied


async def test_a_peer_that_stops_answering_is_called_at_its_new_endpoint_without_its_session(
    bench: Bench,
) -> None:
    def silent() -> bool:
        if peer(bench).endpoint == OLD:
            becomes(bench, OLD, sent=1400)
        return peer(bench).endpoint == NEW

    async with bench.running():
        applied = await with_a_live_session(bench)
        await eventually(silent)
        assert peer(bench).last_handshake == 0, "nothing but handshakes goes there"
        changes = bench.device.applied[applied:]
        at = changes.index(RemovePeer(key(1)))
        assert changes[at + 1] == SetPeer(key(1), NEW, allowed_ips=peer(bench).allowed_ips)


async def test_a_peer_that_has_moved_is_followed_by_wireguard_itself(bench: Bench) -> None:
    async with bench.running() as running:
        applied = await with_a_live_session(bench)
        becomes(bench, NEW, received=92)
        assert await running.reconciler.repair()
        assert running.reconciler._waiting == set()
        assert sent_to(bench, applied, NEW) == []
        assert RemovePeer(key(1)) not in bench.device.applied


async def test_a_name_that_is_made_to_resolve_elsewhere_does_not_move_a_session(bench: Bench) -> None:
    bench.resolver.names = {"moving.example": OLD.host}
    async with bench.running() as running:
        bench.source.tell(
            bench.chain.mine(grant(1), EndpointUpdated(1, PeerEndpoint.parse("moving.example:51820")))
        )
        await eventually(lambda: bench.tokens() == {1} and peer(bench).endpoint == OLD)
        becomes(bench, OLD)
        bench.resolver.names = {"moving.example": NEW.host}
        running.resolver.book.refresh([*running.resolver.book._names])
        await eventually(lambda: running.reconciler._waiting == {key(1)})
        assert peer(bench).endpoint == OLD


async def test_a_peer_that_wireguard_follows_into_the_tunnel_is_set_anew_within_a_look(bench: Bench) -> None:
    inside = Destinations((IPv4Network("10.77.0.0/16"),))
    bench.policy = PeerPolicy({"node-1": PeerEndpoint.parse(str(OLD), local=True)}, destinations=inside)
    bench.chain.mine(grant(1))

    def is_set_anew() -> bool:
        if peer(bench).endpoint == OLD and peer(bench).last_handshake:
            # A comparison came first and restored the endpoint. WireGuard follows the peer again.
            becomes(bench, SocketAddress("10.77.0.2", 51820))
        return peer(bench).endpoint == OLD and peer(bench).last_handshake == 0

    async with bench.running():
        await eventually(lambda: bench.tokens() == {1} and peer(bench).endpoint == OLD)
        becomes(bench, SocketAddress("10.77.0.2", 51820))
        # Up to a second each until the device is read and looked at, and more on a busy machine.
        await eventually(is_set_anew, timeout=20.0)


async def test_a_peer_heard_by_its_relay_is_not_turned_to_an_address_that_never_answered(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The UDP address may be a third party's: relayed packets would redirect data to it."""
    monkeypatch.setattr(path_keeper, "TICK", 0.01)
    monkeypatch.setattr(transport, "NO_HANDSHAKE", 0.2)
    monkeypatch.setattr(transport, "NO_ANSWER", 0.2)
    monkeypatch.setattr(handshakes, "AGAIN", 60.0)  # another initiation would end the session first
    third = PeerEndpoint.parse(f"{NEW},tcp://192.0.2.1:443")

    def sending() -> bool:
        was = peer(bench)
        bench.device.peers[key(1)] = replace(was, tx_bytes=was.tx_bytes + 148)
        return was.endpoint is not None and was.endpoint.is_loopback

    async with bench.running():
        bench.source.tell(bench.chain.mine(grant(1), EndpointUpdated(1, third)))
        await eventually(lambda: bench.tokens() == {1} and peer(bench).endpoint == NEW)
        await eventually(sending)
        relay = bench.relays.made[0].address
        becomes(bench, relay, received=148)
        # The relay is silent: UDP is tried again, without the session.
        await eventually(lambda: sending() is False and peer(bench).endpoint == NEW)
        assert peer(bench).last_handshake == 0
        applied = len(bench.device.applied)

        def heard_by_relay() -> bool:
            becomes(bench, relay, received=148)
            return bench.node.path_keeper.paths.peers[key(1)].way is Path.RELAY

        await eventually(heard_by_relay)
        for _ in range(5):
            becomes(bench, relay, received=148)
            assert await bench.node.reconciler.repair()
        assert sent_to(bench, applied, NEW) == []
