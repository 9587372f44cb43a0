"""Server-sent events, parsed as a browser does."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
from tests.unit.adapters.web.serving import FixedView, Serving, serving, until

from dstack_vpn.adapters.web import stream
from dstack_vpn.adapters.web.access import Policy
from dstack_vpn.adapters.web.api import Api
from dstack_vpn.core.limits.shares import Shares
from dstack_vpn.core.observe.events import BrakeReleased, HealthChanged
from dstack_vpn.daemon.observe.event_log import KEPT


@dataclass
class Message:
    id: str
    event: str
    data: Any


@dataclass
class Reader:
    content: aiohttp.StreamReader

    async def next(self) -> Message:
        """Return the next message, without comments."""
        fields: dict[str, str] = {}
        async with asyncio.timeout(10):
            while True:
                line = (await self.content.readline()).decode().rstrip("\n")
                if not line and "data" in fields:
                    return Message(fields.get("id", ""), fields["event"], json.loads(fields["data"]))
                name, _, value = line.partition(": ")
                if name:
                    fields[name] = value


@asynccontextmanager
async def reading(served: Serving, query: str = "", **headers: str) -> AsyncIterator[Reader]:
    async with (
        aiohttp.ClientSession() as client,
        client.get(f"{served.url}/events{query}", headers=headers) as reply,
    ):
        assert reply.content_type == "text/event-stream"
        yield Reader(reply.content)


async def test_what_happens_comes_as_it_happens() -> None:
    view = FixedView()
    view.feed.publish(BrakeReleased(1))
    async with serving(view) as served, reading(served) as first, reading(served, "?backlog=1") as second:
        assert (await second.next()).data["removals"] == 1
        view.feed.publish(HealthChanged("chain", "ok", "failed", "line\nbreak"))
        for reader in (first, second):
            message = await reader.next()
            assert (message.event, message.id) == ("health.changed", f"{view.feed.epoch}-2")
            assert message.data["reason"] == "line\nbreak"
            assert message.data["kind"] == "health.changed"


async def test_a_reader_goes_on_where_it_was() -> None:
    view = FixedView()
    for number in range(5):
        view.feed.publish(BrakeReleased(number))
    last = {"Last-Event-ID": f"{view.feed.epoch}-3"}
    async with serving(view) as served:
        async with reading(served, **last) as reader:
            assert [(await reader.next()).data["removals"] for _ in range(2)] == [3, 4]
        async with reading(served, f"?last_event_id={view.feed.epoch}-4") as reader:
            assert (await reader.next()).data["removals"] == 4


@pytest.mark.parametrize("last", ["{epoch}-99", "0-1", "nonsense", "{epoch}-1"])
async def test_what_can_not_be_made_up_for_is_a_reset(last: str) -> None:
    view = FixedView()
    for number in range(KEPT + 5):
        view.feed.publish(BrakeReleased(number))
    async with serving(view) as served:
        header = {"Last-Event-ID": last.format(epoch=view.feed.epoch)}
        if last == "{epoch}-99":
            header = {"Last-Event-ID": f"{view.feed.epoch}-99999"}
        async with reading(served, **header) as reader:
            message = await reader.next()
            assert (message.event, message.id) == ("reset", f"{view.feed.epoch}-{view.feed.last}")
            view.feed.publish(BrakeReleased(7))
            assert (await reader.next()).data["removals"] == 7


async def test_a_stream_can_end_by_itself() -> None:
    view = FixedView()
    view.feed.publish(BrakeReleased(1))
    async with serving(view) as served:
        status, body, _ = await served.get("/events?backlog=10&wait=0")
        assert status == 200
        assert body.count("event: brake.released") == 1


async def test_many_at_once_are_all_told() -> None:
    view = FixedView()
    async with serving(view) as served, reading(served) as reader:
        for number in range(3 * stream.PORTION):
            view.feed.publish(BrakeReleased(number))
        found = [(await reader.next()).data["removals"] for _ in range(3 * stream.PORTION)]
        assert found == list(range(3 * stream.PORTION))


async def test_a_silent_stream_shows_that_it_lives() -> None:
    view = FixedView()
    api = Api(view, Policy())
    api.streams._keepalive = 0.05
    async with serving(view, parts=(api,)) as served, reading(served) as reader:
        async with asyncio.timeout(5):
            while await reader.content.readline() != b": still here\n":
                pass


async def test_a_reader_that_takes_nothing_is_dropped_and_nobody_else() -> None:
    view = FixedView()
    api = Api(view, Policy())
    api.streams._stall = 0.3
    async with serving(view, parts=(api,)) as served:
        _, writer = await asyncio.open_connection("127.0.0.1", served.port, limit=1)
        writer.transport.pause_reading()  # type: ignore[attr-defined]  # only asyncio's transports have it
        writer.write(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        async with reading(served) as good, asyncio.timeout(30):
            await until(lambda: len(api.streams) == 2)
            number = 0
            while not api.streams.dropped:
                view.feed.publish(HealthChanged("a", "ok", "ok", "x" * 20_000))
                number += 1
                assert (await good.next()).event == "health.changed"
            assert len(api.streams) == 1
        writer.close()


async def test_readers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "STREAMS", Shares(1, each=1))
    async with serving() as served, reading(served):
        status, _, headers = await served.get("/events")
        assert (status, headers["Retry-After"]) == (503, "10")


async def test_streams_end_with_the_server() -> None:
    async with asyncio.timeout(5):
        async with serving() as served:
            connection = aiohttp.ClientSession()
            reply = await connection.get(f"{served.url}/events")
        await reply.content.read()
        await connection.close()
