"""Several resolvers, including silent ones."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import cast

import dns.message
import pytest

from dstack_vpn.adapters.dns import upstream as forwarding
from dstack_vpn.adapters.dns.desk import QUESTIONS
from dstack_vpn.adapters.dns.messages import parse
from dstack_vpn.adapters.dns.upstream import Forwarder
from dstack_vpn.core.model import SocketAddress


class Resolver(asyncio.DatagramProtocol):
    """A resolver that answers each question with an empty response, or never."""

    def __init__(self, *, silent: bool = False) -> None:
        self.silent, self.asked = silent, 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.DatagramTransport", transport)
        self.address = SocketAddress(*transport.get_extra_info("sockname")[:2])

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.asked += 1
        if not self.silent:
            message = dns.message.from_wire(data)
            self.transport.sendto(dns.message.make_response(message).to_wire(), addr)


@asynccontextmanager
async def resolvers(*which: Resolver) -> AsyncIterator[Forwarder]:
    for each in which:
        await asyncio.get_running_loop().create_datagram_endpoint(partial(_itself, each), ("127.0.0.1", 0))
    try:
        yield Forwarder(lambda: [each.address for each in which])
    finally:
        for each in which:
            each.transport.close()
        await asyncio.sleep(0)


def _itself(resolver: Resolver) -> Resolver:
    return resolver


async def asks(upstream: Forwarder) -> float:
    """Return the seconds until the answer."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    answer = await upstream.ask(parse(dns.message.make_query("x.example", "A").to_wire()), over_udp=True)
    assert dns.message.from_wire(answer).rcode() == 0
    return loop.time() - began


async def test_a_dead_first_resolver_costs_a_moment_once() -> None:
    dead, well = Resolver(silent=True), Resolver()
    async with resolvers(dead, well) as upstream:
        assert await asks(upstream) < forwarding.EARLY + 0.5
        waits = [await asks(upstream) for _ in range(20)]
        assert max(waits) < forwarding.EARLY
        assert dead.asked == 1


async def test_a_hundred_lookups_at_once_are_all_answered_beside_a_dead_resolver() -> None:
    dead, well = Resolver(silent=True), Resolver()
    async with resolvers(dead, well) as upstream:
        await asks(upstream)
        await asyncio.gather(*(asks(upstream) for _ in range(QUESTIONS.total)))


async def test_the_first_resolver_is_asked_first_again_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwarding, "LATE", 0.1)
    first, second = Resolver(silent=True), Resolver()
    async with resolvers(first, second) as upstream:
        await asks(upstream)
        first.silent = False
        await asyncio.sleep(0.15)
        before = second.asked
        await asks(upstream)
        assert (first.asked, second.asked) == (2, before)


async def test_a_resolver_that_refuses_the_port_has_the_next_asked_at_once() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as gone:
        gone.bind(("127.0.0.1", 0))
        port = gone.getsockname()[1]
    well = Resolver()
    async with resolvers(well) as only:
        upstream = Forwarder(lambda: [SocketAddress("127.0.0.1", port), *only._resolvers()])
        assert await asks(upstream) < forwarding.EARLY
