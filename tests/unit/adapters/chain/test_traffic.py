"""The counted bytes are those of the messages, compared with the bytes on the socket itself.

A `Tap` between the node and the endpoint counts the bytes of the TCP connection. For WebSockets it
also reads the frames, so that the comparison is exact. For HTTP the difference is the headers.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from tests.fake_chain import FakeServer, Fault
from tests.unit.adapters.chain.connecting import DEADLINE

from dstack_vpn.adapters.chain import RpcPool
from dstack_vpn.adapters.chain.http import open_http
from dstack_vpn.adapters.chain.jsonrpc import Request
from dstack_vpn.adapters.chain.traffic import Traffic, size_of
from dstack_vpn.adapters.chain.url import RpcUrl
from dstack_vpn.adapters.chain.websocket import open_websocket
from dstack_vpn.core.chain.usage import NOTIFICATION, OTHER, Usage
from dstack_vpn.errors import EndpointError

HTTP_OVERHEAD = 400
"""More bytes than the headers of one HTTP request, or of one reply, have on these connections."""


@dataclass
class Tap:
    """A TCP proxy that keeps what it carries."""

    up: bytearray = field(default_factory=bytearray)
    down: bytearray = field(default_factory=bytearray)
    port: int = 0


@asynccontextmanager
async def tap_on(server: FakeServer) -> AsyncIterator[Tap]:
    tap, group = Tap(), asyncio.TaskGroup()

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, kept: bytearray) -> None:
        while data := await reader.read(65536):
            kept += data
            writer.write(data)
        writer.close()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind, ahead = await asyncio.open_connection(*server.address)
        async with asyncio.TaskGroup() as both:
            both.create_task(copy(reader, ahead, tap.up))
            both.create_task(copy(behind, writer, tap.down))

    async with group:
        listening = await asyncio.start_server(carry, "127.0.0.1", 0)
        tap.port = listening.sockets[0].getsockname()[1]
        async with listening:
            yield tap


def payload(stream: bytes) -> int:
    """Return the bytes of the text frames (RFC 6455, 5.2) after the handshake's headers."""
    rest, total = stream.partition(b"\r\n\r\n")[2], 0
    while rest:
        opcode, masked, length, start = rest[0] & 15, rest[1] >> 7, rest[1] & 127, 2
        if length >= 126:
            start = 4 if length == 126 else 10
            length = int.from_bytes(rest[2:start], "big")
        start += 4 * masked
        total += length if opcode == 1 else 0
        rest = rest[start + length :]
    return total


def total(usage: dict[str, Usage]) -> Usage:
    return sum(usage.values(), Usage())


async def follow(server: FakeServer, url: str) -> dict[str, Usage]:
    """Follow a chain over five blocks and read it; return the counted use."""
    pool = RpcPool([url], server.chain.contract, poll_interval=0.01)
    async with pool.session() as session, asyncio.timeout(DEADLINE):
        facts = session.facts()
        await anext(facts)
        for _ in range(5):
            await server.chain.mine()
            await anext(facts)
        await session.read_all(await session.head())
        await session.events(0, 5)
    (found,) = pool.usage().values()
    return dict(found)


async def test_the_bytes_of_a_websocket_are_those_of_its_text_frames(fake_chain: FakeServer) -> None:
    async with tap_on(fake_chain) as tap:
        counted = await follow(fake_chain, f"ws://127.0.0.1:{tap.port}")
    assert (total(counted).sent, total(counted).received) == (
        payload(bytes(tap.up)),
        payload(bytes(tap.down)),
    )
    heads = counted[NOTIFICATION]
    assert (heads.count, heads.sent) == (5, 0)
    assert 5 * 500 < heads.received < 5 * 3000
    assert {name: use.count for name, use in counted.items()}["eth_subscribe"] == 2
    assert OTHER not in counted
    assert {name: use.count for name, use in counted.items() if name != NOTIFICATION} == dict(
        fake_chain.faults.calls
    )


async def test_the_bytes_over_http_are_those_without_headers(
    fake_chain: FakeServer,
) -> None:
    async with tap_on(fake_chain) as tap:
        counted = await follow(fake_chain, f"http://127.0.0.1:{tap.port}")
    posts = bytes(tap.up).count(b"POST ")
    bodies = total(counted)
    assert NOTIFICATION not in counted
    assert bodies.sent < len(tap.up) < bodies.sent + posts * HTTP_OVERHEAD
    assert bodies.received < len(tap.down) < bodies.received + posts * HTTP_OVERHEAD
    assert {name: use.count for name, use in counted.items()} == dict(fake_chain.faults.calls)


async def test_a_batch_is_divided_among_its_calls(fake_chain: FakeServer) -> None:
    traffic = Traffic()
    calls = [Request(1, "eth_chainId"), Request(2, "eth_getBlockByNumber", ["latest", False])]
    async with tap_on(fake_chain) as tap:
        url = RpcUrl.parse(f"http://127.0.0.1:{tap.port}")
        async with open_http(url, traffic) as transport:
            await transport.exchange(calls, DEADLINE)
    found = traffic.usage()
    body = bytes(tap.up).partition(b"\r\n\r\n")[2]
    assert [use.count for use in found.values()] == [1, 1]
    assert sum(use.sent for use in found.values()) == len(body)
    received = [use.received for use in found.values()]
    assert sum(received) == len(bytes(tap.down).partition(b"\r\n\r\n")[2])
    assert max(received) - min(received) <= 1


async def test_a_batch_that_is_refused_counts_twice(fake_chain: FakeServer) -> None:
    fake_chain.faults.no_batches = True
    traffic = Traffic()
    async with open_http(RpcUrl.parse(fake_chain.http), traffic) as transport:
        await transport.exchange([Request(n, "eth_chainId") for n in (1, 2)], DEADLINE)
    assert traffic.usage()["eth_chainId"].count == 4, "the batch, and the calls one by one"


async def test_a_reply_after_its_deadline_belongs_to_no_call(fake_chain: FakeServer) -> None:
    traffic, late = Traffic(), asyncio.Event()
    answer = fake_chain._one

    async def slowly(call: dict[str, object], socket: object) -> dict[str, object]:
        if call["method"] == "eth_getCode":
            await late.wait()
        return await answer(call, socket)  # type: ignore[arg-type]  # as it was called

    fake_chain._one = slowly  # type: ignore[method-assign]  # a server that replies late
    async with open_websocket(RpcUrl.parse(fake_chain.ws), traffic) as transport:
        code = Request(1, "eth_getCode", [fake_chain.chain.contract, "latest"])
        with pytest.raises(EndpointError, match="did not reply in time"):
            await transport.exchange([code], 0.05)
        late.set()
        async with asyncio.timeout(DEADLINE):
            while OTHER not in traffic.usage():
                await transport.exchange([Request(2, "eth_chainId")], DEADLINE)
    found = traffic.usage()
    assert found["eth_getCode"].received == 0
    assert (found[OTHER].count, found[OTHER].sent) == (1, 0)
    assert found[OTHER].received > 0


@pytest.mark.parametrize("body", ["<html>", "[]", "[1]"])
async def test_what_is_no_message_is_counted(fake_chain: FakeServer, body: str) -> None:
    traffic = Traffic()
    fake_chain.faults.by_method["eth_chainId"] = Fault(body=body)
    async with open_websocket(RpcUrl.parse(fake_chain.ws), traffic) as transport:
        with pytest.raises(EndpointError):
            await transport.exchange([Request(1, "eth_chainId")], 0.5)
    assert traffic.usage()[OTHER] == Usage(1, 0, len(body))


@pytest.mark.parametrize("text", ["", "plain", "\u00fc\u20ac", b"\xff\xfe"])
def test_the_size_of_a_text_is_that_of_its_utf_8(text: str | bytes) -> None:
    assert size_of(text) == len(text.encode() if isinstance(text, str) else text)
