"""Limits on a source's connections, event streams and requests, over real sockets."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
from tests.unit.adapters.crowd import CROWD, connected
from tests.unit.adapters.web.serving import TOKEN, Serving, serving, until

from dstack_vpn.adapters.web.access import Policy
from dstack_vpn.adapters.web.connections import CONNECTIONS, LOBBY, LOBBY_PACE
from dstack_vpn.adapters.web.stream import STREAMS
from dstack_vpn.core.limits.shares import Kind, Source, Sources

CHECK = b"GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Crowded(Policy):
    """A policy with the members and strangers of `crowd`."""

    @property
    def sources(self) -> Sources:
        return CROWD


def policy() -> Policy:
    return Crowded(TOKEN, users=True, owner=lambda *_: 0)


@contextlib.asynccontextmanager
async def besieged(
    served: Serving, sources: list[str], each: int
) -> AsyncIterator[list[asyncio.StreamReader]]:
    """Hold this number of connections from each source."""
    found = [await connected(served.port, source) for source in sources for _ in range(each)]
    try:
        yield [reader for reader, _ in found]
    finally:
        for _, writer in found:
            writer.transport.abort()


async def asked(port: int, source: str, said: bytes = CHECK) -> bytes:
    """Return the status of the answer, or nothing if the connection fails."""
    try:
        reader, writer = await connected(port, source)
        writer.write(said)
        async with asyncio.timeout(5):
            line = await reader.readline()
        writer.close()
    except OSError:
        return b""
    return line[9:12]


def stop_time(served: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop the server's clock, so that connections do not become stale on a slow machine."""
    now = time.monotonic()
    monkeypatch.setattr(served.server.connections, "_monotonic", lambda: now)


THREE = [f"127.1.0.{number}" for number in (1, 2, 3)]
MANY = [f"127.1.0.{number}" for number in range(1, 9)]
ONE_64 = [f"127.2.0.{number}" for number in range(1, 9)]
BOTH_OF_ONE = ["127.3.0.7", "127.4.0.7"]


@pytest.mark.parametrize(
    "sources", [THREE, MANY, ONE_64, BOTH_OF_ONE], ids=["three", "many", "one /64", "one member"]
)
async def test_sources_that_hold_all_connections_they_can_lock_nobody_out(sources: list[str]) -> None:
    stats = b"GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n"
    async with serving(policy=policy()) as served, besieged(served, sources, 110):
        for other in ("127.0.0.1", "127.3.0.8", "127.4.0.9", "127.1.9.9"):
            assert [await asked(served.port, other, said) for said in (CHECK, stats)] == [b"200", b"200"]


async def test_addresses_of_one_64_and_of_one_member_are_one_source() -> None:
    for sources in (ONE_64, BOTH_OF_ONE):
        async with serving(policy=policy()) as served, besieged(served, sources, 60):
            await until(lambda: served.server.connections.refused)
            assert len(served.server.connections) <= CONNECTIONS.each


async def test_a_health_check_needs_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """A local proxy holds every place of this machine with requests in progress."""
    events = b"GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n"
    async with serving(policy=policy(), patience=60.0) as served:
        stop_time(served, monkeypatch)
        connections = served.server.connections
        async with besieged(served, ["127.0.0.1"], CONNECTIONS.total):
            await until(lambda: connections.refused)
            for transport in list(connections._open):
                if not connections.in_lobby(transport):
                    connections.busy(transport)  # as if its request were in progress
            assert len(connections) == CONNECTIONS.ours
            for _ in range(2 * LOBBY.total):
                assert await asked(served.port, "127.0.0.1") == b"200"
            assert await asked(served.port, "127.0.0.1", events) == b"503"


async def test_a_source_that_keeps_coming_is_let_into_the_lobby_at_a_pace(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Admission to the lobby costs far more than an immediate close."""
    async with serving(policy=policy()) as served:
        stop_time(served, monkeypatch)
        async with besieged(served, MANY, 110):
            for _ in range(int(LOBBY_PACE.burst)):
                await asked(served.port, MANY[0])
            assert [await asked(served.port, MANY[0]) for _ in range(5)] == [b""] * 5
            for other in ("127.0.0.1", "127.3.0.8", "127.1.9.9"):
                assert await asked(served.port, other) == b"200"


async def test_clients_of_before_keep_their_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(policy=policy()) as served:
        stop_time(served, monkeypatch)
        before = [await connected(served.port, f"127.1.1.{number}") for number in range(1, 4)]
        async with besieged(served, MANY, 110):
            for reader, writer in before:
                writer.write(CHECK)
                assert (await asyncio.wait_for(reader.readline(), 5))[9:12] == b"200"
                writer.close()


async def test_one_members_streams_leave_room_for_others() -> None:
    events = b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n"
    async with serving(policy=policy()) as served:
        greedy = [
            await asked_and_held(served.port, source, events)
            for source in (*BOTH_OF_ONE, *MANY)
            for _ in range(STREAMS.each)
        ]
        assert sum(line[9:12] == b"200" for line, *_ in greedy[: 2 * STREAMS.each]) == STREAMS.each
        for other in ("127.0.0.1", "127.3.0.8", "127.1.9.9"):
            line, _, writer = await asked_and_held(served.port, other, events)
            assert line[9:12] == b"200"
            writer.transport.abort()
        for _, _, writer in greedy:
            writer.transport.abort()


async def asked_and_held(
    port: int, source: str, said: bytes
) -> tuple[bytes, asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await connected(port, source)
    writer.write(said)
    async with asyncio.timeout(5):
        return await reader.readline(), reader, writer


async def test_a_claimed_address_is_not_believed_by_limits() -> None:
    """Requests with different X-Forwarded-For addresses count for their connection's source."""
    async with serving(policy=policy()) as served:
        for _ in range(200):
            served.server._limiter.take(CROWD.of("127.1.0.1"), asyncio.get_running_loop().time())
        forged = b"GET /version HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: 192.0.2.%d\r\n\r\n"
        reader, writer = await connected(served.port, "127.1.0.1")
        began = asyncio.get_running_loop().time()
        writer.write(forged % 7)
        await asyncio.wait_for(reader.readline(), 5)
        assert asyncio.get_running_loop().time() - began > 0.4  # delayed by the pace of its own source
        writer.close()


async def test_requests_of_others_do_not_hold_up_a_health_check() -> None:
    async with serving(policy=policy()) as served:
        now, own = asyncio.get_running_loop().time() + 0.5, CROWD.of("127.0.0.1")
        while served.server._limiter.take(own, now) is not None:
            pass  # a local proxy exceeds its pace
        assert await asked(served.port, "127.0.0.1") == b"200"
        # Checks by a proxy do not delay it either. nginx uses HTTP/1.0 by default.
        old = b"GET /ready HTTP/1.0\r\nHost: localhost\r\n\r\n"
        proxied = Source(Kind.OURS, "this machine, by a proxy")
        while served.server._checks.take(proxied, now, shared=False) is not None:
            pass
        assert await asked(served.port, "127.0.0.1", old) == b"429"
        assert await asked(served.port, "127.0.0.1") == b"200"


async def test_a_place_that_is_displaced_is_closed() -> None:
    async with serving(policy=policy()) as served, besieged(served, MANY, 100) as held:
        assert await asked(served.port, "127.1.9.9") == b"200"
        gone = [reader for reader in held if not await is_open_now(reader)]
        assert gone


async def is_open_now(reader: asyncio.StreamReader) -> bool:
    await asyncio.sleep(0)
    return not reader.at_eof() and reader.exception() is None
