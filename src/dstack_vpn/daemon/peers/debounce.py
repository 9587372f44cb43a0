"""The schedule of full device comparisons: soon after the last event, at a bounded rate."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from dstack_vpn.core.limits.time_share import TimeShare
from dstack_vpn.ports import Clock

QUIET: Final = 0.3
"""Seconds of quiet after the last event until the full comparison."""
LIMIT: Final = TimeShare(parts=200, least=3.0)
"""The longest delay while events go on: no change can enter the device while it is read."""
SHARE: Final = TimeShare(parts=10)
"""The pause after a comparison: while thousands of peers are compared, an event takes longer."""
STOOD_STILL: Final = 0.5
"""Seconds of a reading beyond which the device stood still: it costs no work then."""


@dataclass(slots=True)
class Debounce:
    """Combines many requests into one comparison."""

    clock: Clock
    cost: float = 0.0
    """Seconds that the last reading of the device took."""
    _requested: asyncio.Event = field(default_factory=asyncio.Event)
    _at: float = 0.0
    """The time of the last request (monotonic seconds)."""
    _read_at: float = 0.0
    """The time of the last reading (monotonic seconds)."""

    def request(self) -> None:
        """Request a comparison; it is made `QUIET` seconds after the last request, or later if the
        device takes long to read.
        """
        self._at = self.clock.monotonic()
        self._requested.set()

    def took(self, seconds: float) -> None:
        """Record the seconds that it took to read the device."""
        self.cost, self._read_at = seconds, self.clock.monotonic()

    async def due(self, pause: float | None) -> None:
        """Return when a requested comparison is due, or without one after ``pause`` seconds."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._requested.wait(), pause)
        began = self.clock.monotonic()
        while True:
            latest = began + LIMIT.pause(self.cost)
            pause = SHARE.pause(self.cost) if self.cost < STOOD_STILL else 0.0
            quiet = max(self._at + QUIET, self._read_at + pause)
            rest = min(quiet, latest) - self.clock.monotonic()
            if rest <= 0:
                break
            await asyncio.sleep(rest)
        self._requested.clear()
