"""A pair of relays in the test's process."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import pytest

from dstack_vpn.adapters.relay.engine import Engine
from dstack_vpn.adapters.relay.tcp2udp import Tcp2Udp
from dstack_vpn.adapters.relay.udp2tcp import Udp2Tcp
from dstack_vpn.adapters.relay.view import Service
from dstack_vpn.core.model import SocketAddress
from dstack_vpn.core.paths.relay_url import Listen, RelayUrl


@asynccontextmanager
async def running(*services: Service) -> AsyncIterator[None]:
    tasks = [asyncio.ensure_future(service.run()) for service in services]  # noqa: TID251 - cancelled below
    await asyncio.sleep(0)
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task


async def until(condition: Callable[[], object]) -> None:
    """Wait until a condition holds for which there is no event."""
    ends = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < ends, "the condition did not come to hold"
        await asyncio.sleep(0.001)


class Pair:
    """A udp2tcp and a tcp2udp between two UDP sockets."""

    def __init__(self, *, offload: bool = True) -> None:
        self.engine = Engine(offload=offload)
        self.source, self.sink = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
        for made in (self.source, self.sink):
            made.bind(("127.0.0.1", 0))
            made.setblocking(False)
        self.far = Tcp2Udp(self.engine, Listen.parse("tcp://127.0.0.1:0"), self.sink.getsockname())
        upstream = RelayUrl.parse(f"tcp://127.0.0.1:{self.far.address.port}")
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
