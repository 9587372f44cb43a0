"""The DNS responder's limits for sources with many connections, pending questions or floods."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from types import SimpleNamespace

import dns.message
import pytest
from tests.integration.support import eventually
from tests.ports import free_port
from tests.unit.adapters.crowd import CROWD, connected
from tests.unit.adapters.dns.test_server import ZONE, Told

from dstack_vpn.adapters.dns import desk, source_filter
from dstack_vpn.adapters.dns.desk import CONNECTIONS, PACE, QUESTIONS
from dstack_vpn.adapters.dns.server import DnsServer
from dstack_vpn.core.model import SocketAddress

OURS = dns.message.make_query(f"web.{ZONE}", "A").to_wire()
FOREIGN = dns.message.make_query("example.org", "A").to_wire()
GREEDY = {
    "one member": ["127.3.0.7", "127.4.0.7"],
    "one /64": [f"127.2.0.{number}" for number in range(1, 6)],
    "many": [f"127.1.0.{number}" for number in range(1, 13)],
}
OTHERS = ["127.0.0.1", "127.3.0.8", "127.4.0.9", "127.1.9.9"]


@asynccontextmanager
async def serving(*resolvers: SocketAddress) -> AsyncIterator[DnsServer]:
    server = DnsServer(Told(), free_port(), (), lambda: resolvers, CROWD)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(server.run())
        await eventually(lambda: server.listening, "it listens")
        await server.load()
        yield server
        task.cancel()


def asking(port: int, source: str) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.setblocking(False)
    made.bind((source, 0))
    made.connect(("127.0.0.1", port))
    return made


async def udp(port: int, source: str, data: bytes = OURS) -> bytes:
    with asking(port, source) as client:
        client.send(data)
        async with asyncio.timeout(5):
            return await asyncio.get_running_loop().sock_recv(client, 65535)


async def tcp(port: int, source: str) -> bytes:
    reader, writer = await connected(port, source)
    writer.write(len(OURS).to_bytes(2, "big") + OURS)
    try:
        async with asyncio.timeout(5):
            return await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
    finally:
        writer.close()


@pytest.mark.parametrize("sources", GREEDY.values(), ids=GREEDY)
async def test_sources_that_hold_all_tcp_connections_they_can_lock_nobody_out(sources: list[str]) -> None:
    async with serving() as server:
        silent = [await connected(server.port, source) for source in sources for _ in range(20)]
        assert len(server.desk._clients) <= CONNECTIONS.total
        for other in OTHERS:
            assert await tcp(server.port, other)
        for _, writer in silent:
            writer.close()


@pytest.mark.parametrize("sources", GREEDY.values(), ids=GREEDY)
async def test_questions_that_no_resolver_answers_keep_no_others_waiting(sources: list[str]) -> None:
    """The only resolver answers known.example alone. Other sources still get its answer."""
    async with resolving() as resolver, serving(resolver) as server, AsyncExitStack() as stack:
        for source in sources:
            client = stack.enter_context(asking(server.port, source))
            for _ in range(40):
                client.send(FOREIGN)
        await eventually(lambda: len(server.desk._questions) >= QUESTIONS.each, "they wait")
        assert len(server.desk._questions) <= QUESTIONS.total
        for other in OTHERS:
            assert await udp(server.port, other, dns.message.make_query("known.example", "A").to_wire())


async def test_a_flood_that_is_slow_to_answer_lets_others_have_their_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With 4 ms for each answer, a flood does not occupy the event loop.

    A turn is limited by time. An earlier version read up to 64 queued questions in a turn.
    """
    async with serving() as server, AsyncExitStack() as stack:
        respond = DnsServer.respond

        def slowly(self: DnsServer, data: bytes, *, over_udp: bool) -> object:
            time.sleep(0.004)
            return respond(self, data, over_udp=over_udp)

        monkeypatch.setattr(DnsServer, "respond", slowly)
        flood = stack.enter_context(asking(server.port, "127.3.0.7"))
        for _ in range(60):
            flood.send(OURS)
        began = time.monotonic()
        for _ in range(4):
            await asyncio.sleep(0)
        assert time.monotonic() - began < 0.15
        assert 0 < server.answers["noerror"] < 16


async def test_a_flood_beyond_its_pace_leaves_room_for_the_questions_of_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All sources share the socket's buffer. Without the filter, the flood fills most of it."""
    async with serving() as server:
        moment = time.monotonic()
        monkeypatch.setattr(desk, "time", SimpleNamespace(monotonic=lambda: moment))  # time does not advance
        monkeypatch.setattr(source_filter, "PAUSE", 60.0)
        with asking(server.port, "127.3.0.7") as flood:
            for _ in range(int(PACE.burst) + 2 * source_filter.AFTER):
                flood.send(OURS)
            await eventually(lambda: "127.3.0.7" in blocked(server), "the source is blocked")
            for _ in range(5000):
                flood.send(OURS)
            for other in OTHERS:
                assert await udp(server.port, other)


def blocked(server: DnsServer) -> set[str]:
    (listener,) = server._open.values()
    assert listener._source_filter is not None
    return set(listener._source_filter._timers)


@asynccontextmanager
async def resolving() -> AsyncIterator[SocketAddress]:
    """Run a resolver that answers only for known.example."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.setblocking(False)
        made.bind(("127.0.0.1", 0))

        def on_question() -> None:
            with suppress(OSError):
                while True:
                    data, client = made.recvfrom(4096)
                    query = dns.message.from_wire(data)
                    if query.question[0].name.to_text() == "known.example.":
                        made.sendto(dns.message.make_response(query).to_wire(), client)

        loop = asyncio.get_running_loop()
        loop.add_reader(made.fileno(), on_question)
        yield SocketAddress(*made.getsockname())
        loop.remove_reader(made.fileno())


async def test_a_flood_by_both_addresses_of_a_member_is_cut_to_its_pace_and_delays_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with serving() as server, AsyncExitStack() as stack:
        moment = time.monotonic()
        monkeypatch.setattr(desk, "time", SimpleNamespace(monotonic=lambda: moment))  # time does not advance
        floods = [stack.enter_context(asking(server.port, source)) for source in GREEDY["one member"]]
        for _ in range(60):
            for flood in floods:
                for _ in range(10):
                    flood.send(OURS)
            await asyncio.sleep(0)
        for other in OTHERS:
            assert await udp(server.port, other)
        assert server.answers["noerror"] == pytest.approx(PACE.burst + len(OTHERS), abs=2)
