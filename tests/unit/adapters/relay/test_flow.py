"""Connections without frames: their backoff, their single log line and their health."""

import asyncio
import resource
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest
from structlog.testing import capture_logs
from tests.unit.adapters.relay.conftest import running, until

from dstack_vpn.adapters.relay import flow as flows
from dstack_vpn.adapters.relay import tcp2udp, udp2tcp
from dstack_vpn.adapters.relay.engine import Engine
from dstack_vpn.adapters.relay.tcp2udp import Tcp2Udp
from dstack_vpn.adapters.relay.udp2tcp import Udp2Tcp
from dstack_vpn.adapters.relay.view import RelayView
from dstack_vpn.core.model import SocketAddress
from dstack_vpn.core.observe.health import Component, Status
from dstack_vpn.core.paths.relay_url import Listen, RelayUrl
from dstack_vpn.core.wireguard.framing import foreign_protocol, frame

ANY = SocketAddress("127.0.0.1", 0)
INITIATION = b"\x01\x00\x00\x00" + bytes(144)
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def far_end(serve: Serve) -> AsyncIterator[int]:
    serving: set[asyncio.Task[None] | None] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(asyncio.current_task())
        await serve(reader, writer)
        with suppress(OSError):
            await writer.wait_closed()

    listening = await asyncio.start_server(accept, "127.0.0.1", 0)
    async with listening:
        yield listening.sockets[0].getsockname()[1]
    await asyncio.gather(*filter(None, serving))


@asynccontextmanager
async def peers(port: int, count: int = 1) -> AsyncIterator[list[Udp2Tcp]]:
    """Run relays to one far end. Each gets a handshake initiation every second."""
    engine = Engine()
    relays = [Udp2Tcp(engine, ANY, [RelayUrl.parse(f"tcp://127.0.0.1:{port}")]) for _ in range(count)]
    sources = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in relays]
    for source, relay in zip(sources, relays, strict=True):
        source.connect(relay.address)

    async def send() -> None:
        while True:
            for source in sources:
                source.send(INITIATION)
            await asyncio.sleep(1.0)

    sending = asyncio.ensure_future(send())  # noqa: TID251 - cancelled below
    try:
        async with running(*relays):
            yield relays
    finally:
        sending.cancel()
        for source in sources:
            source.close()


def verdict(relay: Udp2Tcp | Tcp2Udp) -> Component:
    return RelayView(relay, "1.0", 0.0).health().components[0]


async def component(relay: Udp2Tcp | Tcp2Udp, says: str) -> Component:
    """Return the health component once its reason contains the text."""
    await until(lambda: says in verdict(relay).reason)
    return verdict(relay)


async def closes(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


def answers(data: bytes) -> Serve:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(data)
        writer.close()

    return serve


async def test_twenty_peers_whose_far_end_closes_at_once_cost_little_and_are_logged_once_each() -> None:
    taken = 0

    async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal taken
        taken += 1
        await closes(reader, writer)

    with capture_logs() as logged:
        async with far_end(count) as port, peers(port, 20) as relays:
            before, began = _processor(), time.monotonic()
            await asyncio.sleep(10)
            share = (_processor() - before) / (time.monotonic() - began)
            connects = [relay.counters.connects for relay in relays]
            assert verdict(relays[0]).status is Status.FAILED
    assert max(connects) <= 20
    assert taken <= 20 * 20
    assert share < 0.05, "the far end's part included"
    assert [line["event"] for line in logged].count("relay.carried_nothing") == 20


def _processor() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize(
    ("answer", "named"),
    [
        (b"\x15\x03\x03\x00\x02\x02\x46", "speaks TLS, not UDP over TCP: write tls://"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "speaks HTTP"),
        (b"SSH-2.0-x\r\n", "speaks SSH"),
        (b"", "without an answer"),
    ],
)
async def test_what_answers_instead_of_a_relay_is_named(answer: bytes, named: str) -> None:
    async with far_end(answers(answer)) as port, peers(port) as (relay,):
        found = await component(relay, named)
        assert found.status is Status.FAILED
        assert f"127.0.0.1:{port}" in found.reason


async def test_a_far_end_that_never_answers_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    async def listens(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    monkeypatch.setattr("dstack_vpn.adapters.relay.view.SILENT", 0.5)
    async with far_end(listens) as port, peers(port) as (relay,):
        found = await component(relay, "no answer for")
        assert found.status is Status.WARNING
        assert relay.snapshot()["unanswered_s"] > 0


async def test_a_frame_ends_the_trouble_and_the_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flows, "RETRY", (0.05, 0.05))
    works = False

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if works:
            await reader.read(100)
            writer.write(frame(b"an answer"))
            await reader.read()
        writer.close()

    async with far_end(serve) as port, peers(port) as (relay,):
        await component(relay, "without an answer")
        works = True
        assert (await component(relay, "using")).status is Status.OK
        assert relay.problem is None


@pytest.mark.parametrize("tick", [udp2tcp.TICK, 60.0])
async def test_one_flow_that_gets_nothing_does_not_blame_an_upstream_that_carries_others(
    tick: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(udp2tcp, "TICK", tick)  # also a frame that no tick has seen proves it
    taken = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal taken
        taken += 1
        if taken == 1:  # the far end's limit refuses the rest
            while await reader.read(1000):
                writer.write(frame(b"an answer"))
        writer.close()

    async with far_end(serve) as port, peers(port) as (relay,):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.connect(relay.address)
            await until(lambda: relay.counters.datagrams_down)
            async with asyncio.timeout(10):
                while relay.counters.connects < 4:
                    other.send(INITIATION)
                    await asyncio.sleep(0.05)
        assert verdict(relay).status is Status.OK


async def test_frames_from_an_upstream_that_was_left_prove_nothing_about_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(flows, "MOVING", 1.0)
    taken = 0

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1000):
            writer.write(data)
        writer.close()

    async def keeps_only_the_first(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal taken
        if await reader.read(100):  # a probe sends nothing
            taken += 1
            if taken == 1:
                await reader.read()
        writer.close()

    async with far_end(echo) as port, far_end(keeps_only_the_first) as next_port, peers(port) as (relay,):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.connect(relay.address)
            other.send(INITIATION)
            await until(lambda: relay.counters.datagrams_down >= 2)
            relay.retarget([RelayUrl.parse(f"tcp://127.0.0.1:{next_port}")])
            async with asyncio.timeout(10):
                while taken < 3:
                    other.send(INITIATION)
                    await asyncio.sleep(0.02)
            assert "without an answer" in verdict(relay).reason


# -- the listening side ----------------------------------------------------------------------------


async def test_the_proxy_protocol_in_front_of_a_relay_is_recognised_until_a_client_gets_through() -> None:
    relay = Tcp2Udp(Engine(), Listen.parse("tcp://127.0.0.1:0"), ("127.0.0.1", 9))
    async with running(relay):
        for header in (
            b"PROXY TCP4 192.0.2.1 192.0.2.2 4711 443\r\n",
            b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c",
        ):
            reader, writer = await asyncio.open_connection(*relay.address)
            writer.write(header + bytes(12) + frame(INITIATION))
            assert await reader.read() == b""
            writer.close()
            assert (await component(relay, "PROXY protocol")).status is Status.WARNING
        _, writer = await asyncio.open_connection(*relay.address)
        writer.write(frame(INITIATION))
        assert (await component(relay, "accepting connections")).status is Status.OK
        writer.close()


async def test_a_stranger_that_speaks_http_is_no_trouble_once_a_client_got_through() -> None:
    relay = Tcp2Udp(Engine(), Listen.parse("tcp://127.0.0.1:0"), ("127.0.0.1", 9))
    async with running(relay):
        await _speaks(relay, b"GET / HTTP/1.1\r\n\r\n")
        await component(relay, "used HTTP")
        _, writer = await asyncio.open_connection(*relay.address)
        writer.write(frame(INITIATION))
        await component(relay, "accepting connections")
        await _speaks(relay, b"GET / HTTP/1.1\r\n\r\n")
        assert verdict(relay).status is Status.OK
        writer.close()


@pytest.mark.parametrize("stays", [True, False])
async def test_a_client_that_got_through_counts_before_the_next_tick(
    stays: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tcp2udp, "TICK", 60.0)
    relay = Tcp2Udp(Engine(), Listen.parse("tcp://127.0.0.1:0"), ("127.0.0.1", 9))
    async with running(relay):
        _, writer = await asyncio.open_connection(*relay.address)
        writer.write(frame(INITIATION))
        await until(lambda: relay.counters.datagrams_down)
        if not stays:
            writer.close()
            await until(lambda: not relay.snapshot()["connections"])
        await _speaks(relay, b"GET / HTTP/1.1\r\n\r\n")
        assert verdict(relay).status is Status.OK
        writer.close()


async def _speaks(relay: Tcp2Udp, data: bytes) -> None:
    reader, writer = await asyncio.open_connection(*relay.address)
    writer.write(data)
    await reader.read()
    writer.close()


@pytest.mark.parametrize("first", [frame(INITIATION), frame(bytes(92)), frame(b""), frame(bytes(1420))])
def test_wireguards_own_messages_are_no_other_protocol(first: bytes) -> None:
    assert foreign_protocol(first[:4]) is None
