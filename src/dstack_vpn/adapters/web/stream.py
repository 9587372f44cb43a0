"""Server-sent events: the node's events, as they happen.

A message's id consists of the process's epoch and the entry's number. A reader that reconnects with
the last id that it has seen (``Last-Event-ID``) receives the entries since then, if they are still
kept; otherwise a ``reset`` asks it to read the current state again. All readers share one ring
buffer. A reader that is slower than the ring, or accepts nothing for `STALL` seconds, is dropped;
no other reader is affected. `core.limits.shares` divides the places. A reader that loses its place
to another source's first reader is ended, and can continue from its last id.
"""

import asyncio
import json
import math
import re
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Protocol

from aiohttp import web

from dstack_vpn.core.limits.shares import Kind, Places, Shares, Source
from dstack_vpn.core.observe.event import Entry

KEEPALIVE: Final = 15.0
"""Seconds of silence after which a comment is sent, which detects dead connections."""
STALL: Final = 10.0
"""Seconds within which a reader must accept data."""
STREAMS: Final = Shares(
    total=64, each=12, ours=40, reserved={Kind.OURS: 8, Kind.MEMBER: 16, Kind.STRANGER: 4}, stale=math.inf
)
"""Concurrent readers. This machine and a proxy may read for many; a stream is never stale."""
PORTION: Final = 200
"""The number of entries written together."""
_BUFFER: Final = 64 * 1024
_ID: Final = re.compile(r"([0-9a-f]{1,16})-([0-9]{1,15})", re.ASCII)


class Feed(Protocol):
    """Numbered events; implemented by `daemon.observe.event_log.EventLog`."""

    epoch: str
    last: int

    def after(self, number: int, limit: int) -> list[Entry] | None:
        """Return the next entries; None if they are no longer kept."""

    def latest(self, limit: int) -> list[Entry]:
        """Return the last entries."""

    async def wait(self, number: int) -> None:
        """Return when an entry with a higher number exists."""


class Streams:
    """All readers of one feed."""

    def __init__(self, feed: Feed, stall: float = STALL, keepalive: float = KEEPALIVE) -> None:
        self._feed, self._stall, self._keepalive = feed, stall, keepalive
        self._tasks: set[asyncio.Task[object]] = set()
        self._places: Places[asyncio.Task[object]] = Places(STREAMS)
        self.dropped = 0
        """The number of readers dropped because they were too slow."""

    def __len__(self) -> int:
        return len(self._tasks)

    async def close(self) -> None:
        """End all streams."""
        for task in self._tasks:
            task.cancel()

    async def serve(
        self, request: web.Request, source: Source, *, last_id: str, backlog: int, wait: float | None
    ) -> web.StreamResponse | None:
        """Answer with the stream, from ``last_id`` on, or from ``backlog`` entries ago.

        The stream ends after ``wait`` seconds at the latest; if None, when the reader disconnects.
        Returns None without an answer if the source can have no more places.
        """
        task = asyncio.current_task()
        assert task is not None
        taken = self._places.take(source, task, time.monotonic())
        if taken is None:
            return None
        if taken.displaced is not None:
            taken.displaced.cancel()
        response = web.StreamResponse(headers={"X-Accel-Buffering": "no"})
        response.content_type, response.charset = "text/event-stream", "utf-8"
        self._tasks.add(task)
        try:
            await response.prepare(request)
            if request.transport is not None:
                request.transport.set_write_buffer_limits(high=_BUFFER)
            number, prefix = self._start(last_id, backlog)
            ends = None if wait is None else time.monotonic() + wait
            await self._follow(_Writer(response, request, self._stall, self._drop), number, prefix, ends)
        except (ConnectionError, TimeoutError, asyncio.CancelledError):
            # The reader has disconnected or was dropped, or the node ends.
            pass
        finally:
            self._tasks.discard(task)
            self._places.leave(task)
        return response

    def _start(self, last_id: str, backlog: int) -> tuple[int, bytes]:
        """Return the number of the entry to continue after, and the first bytes to write."""
        prefix, feed = b"retry: 2000\n\n", self._feed
        if last_id:
            known = _ID.fullmatch(last_id)
            if known and known[1] == feed.epoch and feed.after(int(known[2]), 1) is not None:
                return int(known[2]), prefix
            prefix += self._reset()
        return feed.last - len(feed.latest(backlog)), prefix

    async def _follow(self, writer: "_Writer", number: int, prefix: bytes, ends: float | None) -> None:
        while True:
            if (entries := self._feed.after(number, PORTION)) is None:
                self._drop()
                await writer.write(prefix + self._reset())
                return
            if entries:
                number = entries[-1].number
            await writer.write(prefix + b"".join(self._message(entry) for entry in entries))
            prefix = b""
            left = self._keepalive if ends is None else min(self._keepalive, ends - time.monotonic())
            if number < self._feed.last:
                continue
            if left <= 0:
                return
            with suppress(TimeoutError):
                await asyncio.wait_for(self._feed.wait(number), left)
                continue
            prefix = b": still here\n\n"

    def _message(self, entry: Entry) -> bytes:
        data = json.dumps({"at": round(entry.at, 6), **entry.shown()}, separators=(",", ":"))
        return (
            f"id: {self._feed.epoch}-{entry.number}\nevent: {entry.event.name}\ndata: {data}\n\n"
        ).encode()

    def _reset(self) -> bytes:
        return f"id: {self._feed.epoch}-{self._feed.last}\nevent: reset\ndata: {{}}\n\n".encode()

    def _drop(self) -> None:
        self.dropped += 1


class _Writer:
    """Writes to one reader, and drops a reader that accepts nothing in time."""

    def __init__(
        self, response: web.StreamResponse, request: web.Request, stall: float, drop: Callable[[], None]
    ) -> None:
        self._response, self._request, self._stall, self._drop = response, request, stall, drop

    async def write(self, data: bytes) -> None:
        """Write; raises `ConnectionError` without a reader, `TimeoutError` if it stalls."""
        if not data:
            return
        try:
            await asyncio.wait_for(self._response.write(data), self._stall)
        except TimeoutError:
            self._drop()
            if self._request.transport is not None:
                self._request.transport.abort()
            raise
