"""The event log: numbers events, keeps the latest, and passes each to listeners.

Publishing costs an append and never waits. A reader holds a number instead of a queue, so a slow
reader costs nothing: `after` returns None if the requested events are gone.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from dstack_vpn.core.observe.event import Entry, Event
from dstack_vpn.ports import Clock

KEPT: Final = 2048
"""Entries; about 300 bytes each."""


@dataclass(slots=True)
class EventLog:
    """The node's one stream of events."""

    clock: Clock
    epoch: str = field(init=False)
    """Identifies this run of the daemon; the numbers begin with 1 in each."""
    last: int = field(default=0, init=False)
    """The newest entry's number; 0 before the first."""
    _listeners: list[Callable[[Entry], None]] = field(default_factory=list, init=False)
    _ring: deque[Entry] = field(default_factory=lambda: deque(maxlen=KEPT), init=False)
    _news: asyncio.Event = field(default_factory=asyncio.Event, init=False)

    def __post_init__(self) -> None:
        self.epoch = f"{int(self.clock.now() * 1000):x}"

    def subscribe(self, listener: Callable[[Entry], None]) -> None:
        """Call a listener with every entry that is kept, and with each new one.

        It must be quick and raise nothing.
        """
        for entry in self._ring:
            listener(entry)
        self._listeners.append(listener)

    def publish(self, event: Event) -> None:
        """Append an event. Implements `ports.Publish`."""
        self.last += 1
        entry = Entry(self.last, self.clock.now(), event)
        self._ring.append(entry)
        for listener in self._listeners:
            listener(entry)
        self._news.set()
        self._news = asyncio.Event()

    def after(self, number: int, limit: int = KEPT) -> list[Entry] | None:
        """Return up to ``limit`` entries after a number; None if the next one is gone."""
        missing = self.last - number
        if missing > len(self._ring) or missing < 0:
            return None
        start = len(self._ring) - missing
        return list(islice(self._ring, start, start + limit))

    def latest(self, limit: int = KEPT) -> list[Entry]:
        """Return the last entries, in order."""
        return list(islice(self._ring, max(len(self._ring) - limit, 0), None))

    async def wait(self, number: int) -> None:
        """Return when there is an entry after that number."""
        while self.last <= number:
            await self._news.wait()
