"""When to read and compare the whole device: a moment after the last event, and not too often."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from dstack_vpn.core.limits.time_share import TimeShare
from dstack_vpn.ports import Clock

QUIET: Final = 0.3
"""Seconds of quiet after the last event until the full comparison."""
LIMIT: Final = TimeShare(parts=200, least=3.0)
"""When it is made even if events go on: no change can enter the device while it is read."""


@dataclass(slots=True)
class Debounce:
    """Many requests, answered by one comparison."""

    clock: Clock
    cost: float = 0.0
    """Seconds that reading the device took, the last time."""
    _requested: asyncio.Event = field(default_factory=asyncio.Event)
    _at: float = 0.0
    """When it was last requested (monotonic)."""

    def request(self) -> None:
        """Have a comparison made, a moment from now."""
        self._at = self.clock.monotonic()
        self._requested.set()

    def took(self, seconds: float) -> None:
        """Take note of how long it took to read the device."""
        self.cost = seconds

    async def due(self, pause: float | None) -> None:
        """Return when a requested comparison is due, or where none was requested, after ``pause`` seconds."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._requested.wait(), pause)
        began = self.clock.monotonic()
        while True:
            latest = began + LIMIT.pause(self.cost)
            rest = min(self._at + QUIET, latest) - self.clock.monotonic()
            if rest <= 0:
                break
            await asyncio.sleep(rest)
        self._requested.clear()
