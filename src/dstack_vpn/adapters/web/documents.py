"""Large documents: written in a thread, and cached in proportion to the time that writing took.

With a thousand peers, writing a document takes about ten milliseconds, for which no event should
wait. Its data is therefore gathered at one moment and written in a thread. The result is served for
20 times as long as that took, so any number of readers uses at most a twentieth of a processor.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias

from dstack_vpn.core.limits.time_share import TimeShare

WRITING: Final = TimeShare(parts=20)

Later: TypeAlias = Callable[[], tuple[str, bytes]]
"""Writes the gathered data, in a thread; returns a content type and a body."""


class Document:
    """A cached document."""

    def __init__(self, gather: Callable[[], Awaitable[Later]]) -> None:
        self._gather = gather
        self._lock = asyncio.Lock()
        self._made: tuple[str, bytes] = ("", b"")
        self._due = 0.0
        self.problem: str | None = None
        """The reason of the last failure to build it; None after a success."""

    async def get(self) -> tuple[str, bytes]:
        """Return a content type and a body. An error is kept as the problem, and raised."""
        async with self._lock:
            began = time.monotonic()
            if began >= self._due:
                try:
                    self._made = await asyncio.to_thread(await self._gather())
                except Exception as error:
                    self.problem = f"{type(error).__name__}: {error}"
                    raise
                self.problem = None
                now = time.monotonic()
                self._due = now + WRITING.pause(now - began)
        return self._made


def to_json(body: Any) -> tuple[str, bytes]:  # noqa: ANN401 - any JSON value
    """Return the content type and the body of a JSON document."""
    return "application/json", json.dumps(body, separators=(",", ":")).encode()
