"""A node whose peers have relays: the path that it chooses, and the endpoint in WireGuard."""

from dataclasses import replace

import pytest
from tests.scripted import grant, key
from tests.unit.daemon.conftest import Bench, FakeRelay, eventually

from dstack_vpn.core.chain.events import EndpointUpdated, RegistryEvent, Revoked
from dstack_vpn.core.model import SocketAddress
from dstack_vpn.core.paths import selector as transport
from dstack_vpn.core.paths.peer_endpoint import PeerEndpoint
from dstack_vpn.core.paths.selector import TransportMode
from dstack_vpn.daemon.peers import path_keeper

UDP = SocketAddress("192.0.2.9", 51820)
BOTH = PeerEndpoint.parse("192.0.2.9:51820,tcp://192.0.2.9:443")
RELAYED = PeerEndpoint.parse("tcp://192.0.2.9:443")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(path_keeper, "TICK", 0.01)
    monkeypatch.setattr(path_keeper, "HOLD", (0.01, 0.01))
    monkeypatch.setattr(path_keeper, "SETTLE", 0.01)
    monkeypatch.setattr(transport, "NO_HANDSHAKE", 0.05)
    monkeypatch.setattr(transport, "PROBE", (0.02, 0.02))


def mine(bench: Bench, *events: RegistryEvent) -> None:
    bench.source.tell(bench.chain.mine(*events))


def endpoint(bench: Bench) -> SocketAddress | None:
    state = None if bench.link.device is None else bench.device.peers.get(key(1))
    return None if state is None else state.endpoint


def traffic(bench: Bench, *, sent: int = 0, received: int = 0) -> None:
    """Add to the bytes that WireGuard has sent to and received from the peer."""
    state = bench.device.peers[key(1)]
    bench.device.peers[key(1)] = replace(
        state, tx_bytes=state.tx_bytes + sent, rx_bytes=state.rx_bytes + received
    )


def roam(bench: Bench, to: SocketAddress) -> None:
    bench.device.peers[key(1)] = replace(bench.device.peers[key(1)], endpoint=to)


def sending_without_answer(bench: Bench) -> bool:
    """Send data that the peer does not answer; return True once UDP is left."""
    traffic(bench, sent=148)
    return endpoint(bench) != UDP


async def switched(bench: Bench) -> FakeRelay:
    """Return the relay of a node that has just left UDP."""
    mine(bench, grant(1), EndpointUpdated(1, BOTH))
    await eventually(lambda: endpoint(bench) == UDP)
    assert not bench.relays.made
    await eventually(lambda: sending_without_answer(bench))
    (relay,) = bench.relays.made
    assert endpoint(bench) == relay.address
    return relay


async def test_a_relay_is_made_when_udp_is_not_answered_and_only_then(bench: Bench) -> None:
    async with bench.running():
        relay = await switched(bench)
        await eventually(lambda: relay.running)
    assert not relay.running


async def test_an_answered_probe_leads_back_and_late_packets_are_held_meanwhile(bench: Bench) -> None:
    async with bench.running():
        relay = await switched(bench)
        traffic(bench, received=92)
        await eventually(lambda: relay.probes)
        to, answered = relay.probes[0]
        assert to == UDP
        answered()
        await eventually(lambda: endpoint(bench) == UDP)
        assert relay.held
        await eventually(lambda: not relay.held)


async def test_a_packet_that_comes_late_by_the_relay_does_not_turn_wireguard_back(bench: Bench) -> None:
    async with bench.running():
        relay = await switched(bench)
        await eventually(lambda: relay.probes)
        relay.probes[0][1]()
        await eventually(lambda: endpoint(bench) == UDP and not relay.held)
        roam(bench, relay.address)
        await eventually(lambda: endpoint(bench) == UDP)


async def test_a_relay_goes_when_udp_has_carried_for_a_while(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(path_keeper, "LINGER", 0.1)
    async with bench.running():
        relay = await switched(bench)
        await eventually(lambda: relay.probes)
        relay.probes[0][1]()
        await eventually(lambda: not relay.running)
        assert endpoint(bench) == UDP


async def test_a_revoked_peer_loses_its_relay(bench: Bench) -> None:
    async with bench.running():
        relay = await switched(bench)
        await eventually(lambda: relay.running)
        mine(bench, Revoked(1))
        await eventually(lambda: not bench.device.peers)
        await eventually(lambda: not relay.running)


async def test_without_udp_the_relay_is_there_from_the_start(bench: Bench) -> None:
    async with bench.running():
        mine(bench, grant(1), EndpointUpdated(1, RELAYED))
        await eventually(lambda: bench.relays.made and endpoint(bench) == bench.relays.made[0].address)


async def test_other_relays_in_the_registry_take_the_place_of_these(bench: Bench) -> None:
    async with bench.running():
        relay = await switched(bench)
        mine(bench, EndpointUpdated(1, PeerEndpoint.parse("192.0.2.9:51820,tcp://192.0.2.10:443")))
        await eventually(lambda: relay.upstreams[0].host == "192.0.2.10")
        assert endpoint(bench) == relay.address
        mine(bench, EndpointUpdated(1, PeerEndpoint.parse("192.0.2.9:51820")))
        await eventually(lambda: endpoint(bench) == UDP and not relay.running)


async def test_where_the_system_does_not_let_udp_out_the_relay_is_taken_though_nothing_counts(
    bench: Bench,
) -> None:
    bench.relays.udp = False
    async with bench.running():
        mine(bench, grant(1), EndpointUpdated(1, BOTH))
        await eventually(lambda: bench.relays.made and endpoint(bench) == bench.relays.made[0].address)


@pytest.mark.parametrize(
    ("setting", "relayed"), [(TransportMode.UDP, False), (TransportMode.TCP, True), (TransportMode.TLS, None)]
)
async def test_a_fixed_transport_is_kept_to(
    bench: Bench, setting: TransportMode, relayed: bool | None
) -> None:
    bench.transport = setting
    async with bench.running():
        mine(bench, grant(1), EndpointUpdated(1, BOTH), grant(2))
        await eventually(lambda: bench.tokens() >= {2})
        if relayed is None:
            assert endpoint(bench) is None
            return
        await eventually(lambda: endpoint(bench) is not None)
        assert bool(bench.relays.made) is relayed
        assert (endpoint(bench) == UDP) is not relayed


async def test_the_wg_quick_file_names_no_port_that_ends_with_the_process(bench: Bench) -> None:
    async with bench.running():
        mine(bench, grant(1), EndpointUpdated(1, RELAYED))
        await eventually(lambda: endpoint(bench) is not None)
        await eventually(lambda: str(key(1)) in bench.archive.text)
        assert "127.0.0.1" not in bench.archive.text
