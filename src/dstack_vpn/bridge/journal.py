"""What has happened lately: a bounded ring that any number of readers follow at their own pace.

Telling costs an append and never waits. A reader holds a number, not a queue, so a slow one costs nothing: it
finds that what it wants is gone, and is told so.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from dstack_vpn.core.happenings import Entry, Happening
from dstack_vpn.ports import Clock

KEPT: Final = 2048
"""Entries; some 300 bytes each."""


@dataclass(slots=True)
class Journal:
    """Numbers what happens and keeps the last of it."""

    clock: Clock
    listeners: list[Callable[[Entry], None]] = field(default_factory=list)
    """Told of every entry at once; they must be quick, and raise nothing."""
    epoch: str = field(init=False)
    """Tells this node's life from others: numbers begin anew with each."""
    last: int = 0
    """The newest entry's number; 0 before the first."""
    _ring: deque[Entry] = field(default_factory=lambda: deque(maxlen=KEPT))
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.epoch = f"{int(self.clock.now() * 1000):x}"

    def announce(self, what: Happening) -> None:
        """Take it down. Implements `ports.Announce`."""
        self.last += 1
        entry = Entry(self.last, self.clock.now(), what)
        self._ring.append(entry)
        for listener in self.listeners:
            listener(entry)
        self._news.set()
        self._news = asyncio.Event()

    def after(self, number: int, limit: int = KEPT) -> list[Entry] | None:
        """The next entries after that number, at most ``limit``; None where the next one is gone already."""
        missing = self.last - number
        if missing > len(self._ring) or missing < 0:
            return None
        start = len(self._ring) - missing
        return list(islice(self._ring, start, start + limit))

    def latest(self, limit: int = KEPT) -> list[Entry]:
        """The last entries, in order."""
        return list(islice(self._ring, max(len(self._ring) - limit, 0), None))

    async def wait(self, number: int) -> None:
        """Return when there is an entry after that number."""
        while self.last <= number:
            await self._news.wait()
