"""What is seen of a relay from outside, and a relay on a kernel that lacks the offloads."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
from prometheus_client.parser import text_string_to_metric_families

from dstack_vpn.adapters.relay.engine import Engine
from dstack_vpn.adapters.relay.tcp2udp import Tcp2Udp
from dstack_vpn.adapters.relay.udp2tcp import Udp2Tcp
from dstack_vpn.adapters.relay.view import RelayView, Service
from dstack_vpn.core.health import Status
from dstack_vpn.core.model import SocketAddress
from dstack_vpn.core.upstream import Listen, Upstream


@asynccontextmanager
async def running(*services: Service) -> AsyncIterator[None]:
    tasks = [asyncio.ensure_future(service.run()) for service in services]  # noqa: TID251 - ended below
    await asyncio.sleep(0)
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task


class Pair:
    """A udp2tcp and a tcp2udp in this process, between two sockets."""

    def __init__(self, *, offload: bool = True) -> None:
        self.engine = Engine(offload=offload)
        self.source, self.sink = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
        for made in (self.source, self.sink):
            made.bind(("127.0.0.1", 0))
            made.setblocking(False)
        self.far = Tcp2Udp(self.engine, Listen.parse("tcp://127.0.0.1:0"), self.sink.getsockname())
        upstream = Upstream.parse(f"tcp://127.0.0.1:{self.far.address.port}")
        self.near = Udp2Tcp(self.engine, SocketAddress("127.0.0.1", 0), [upstream])
        self.source.connect(self.near.address)

    async def take(self, by: socket.socket, count: int) -> list[bytes]:
        async with asyncio.timeout(10):
            return [await asyncio.get_running_loop().sock_recv(by, 65535) for _ in range(count)]

    async def carries(self, sizes: range) -> None:
        self.source.send(b"first")
        async with asyncio.timeout(10):
            _, back = await asyncio.get_running_loop().sock_recvfrom(self.sink, 100)
        self.sink.connect(back)
        for sender, receiver in ((self.source, self.sink), (self.sink, self.source)):
            sent = [bytes([size % 256]) * size for size in sizes]
            for datagram in sent:
                sender.send(datagram)
            assert await self.take(receiver, len(sent)) == sent


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    made = Pair()
    with made.source, made.sink:
        yield made


@pytest.mark.parametrize("offload", [True, False])
async def test_the_same_datagrams_are_carried_with_and_without_offloads(offload: bool) -> None:
    pair = Pair(offload=offload)
    with pair.source, pair.sink:
        async with running(pair.near, pair.far):
            await pair.carries(range(1, 1500, 37))
    assert bool(pair.engine.offload.missing) is not offload


async def test_metrics_are_what_prometheus_reads(pair: Pair) -> None:
    view = RelayView(pair.near, "1.0", 0.0)
    async with running(pair.near, pair.far):
        await pair.carries(range(10, 20))
        content_type, body = view.metrics()
    assert content_type.startswith("text/plain")
    found = {
        (sample.name, sample.labels.get("direction")): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }
    assert found["dstack_vpn_relay_datagrams_total", "udp_to_tcp"] == 11
    assert found["dstack_vpn_relay_bytes_total", "tcp_to_udp"] == sum(range(10, 20))
    assert found["dstack_vpn_relay_connections", None] == 1


async def test_statistics_tell_what_a_person_asks_for(pair: Pair) -> None:
    async with running(pair.near, pair.far):
        await pair.carries(range(10, 20))
        near, far = RelayView(pair.near, "1.0", 5.0).stats(), RelayView(pair.far, "1.0", 5.0).stats()
    assert (near["mode"], far["mode"]) == ("udp2tcp", "tcp2udp")
    assert near["upstream"] == pair.near.upstreams[0].name
    assert near["datagrams_up"] == far["datagrams_down"] == 11
    assert near["queued_bytes"] == 0
    assert near["rtt_ms"] > 0


async def test_health_tells_whether_an_upstream_can_be_reached(pair: Pair) -> None:
    view = RelayView(pair.near, "1.0", 0.0)
    async with running(pair.near):
        assert view.health().components[0].status is Status.OK
        async with running(pair.far):
            await pair.carries(range(1, 2))
            assert view.health().ready
        pair.source.send(b"into the void")
        async with asyncio.timeout(10):
            while view.health().ready:  # noqa: ASYNC110 - there is no event for it
                await asyncio.sleep(0.01)
        (component,) = view.health().components
        assert component.status is Status.FAILED
        assert pair.near.upstreams[0].name in component.reason
