"""Documents whose making takes a while: made aside, and not more often than a share of the time allows.

With a thousand peers, a document takes some ten milliseconds, which no event should have to wait for. It is
therefore gathered at once and written out in a thread, and handed out again for 20 times as long as that
took, so that no number of readers can take more than a twentieth of a processor.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias

from dstack_vpn.core.limits.time_share import TimeShare

WRITING: Final = TimeShare(parts=20)

Later: TypeAlias = Callable[[], tuple[str, bytes]]
"""Writes out what was gathered, in a thread: a content type and a body."""


class Document:
    """One of them."""

    def __init__(self, gather: Callable[[], Awaitable[Later]]) -> None:
        self._gather = gather
        self._lock = asyncio.Lock()
        self._made: tuple[str, bytes] = ("", b"")
        self._due = 0.0
        self.problem: str | None = None
        """The reason of the last failure to build it; None: it was built."""

    async def get(self) -> tuple[str, bytes]:
        """Return a content type and a body. What making it raises is kept as the problem, and raised."""
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


def to_json(body: Any) -> tuple[str, bytes]:  # noqa: ANN401 - whatever JSON can hold
    """A body as JSON."""
    return "application/json", json.dumps(body, separators=(",", ":")).encode()
