"""Log lines for events, written a moment after the events were published.

A line takes 0.1 ms or more. The device's change comes first.
"""

import asyncio
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

import structlog

from dstack_vpn.core.observe.event import Entry

LINGER: Final = 0.005
"""Seconds from an event to its log line."""
LOGGED_AS: Final = {"event": "event_kind", "component": "part"}
"""Fields whose names the logger uses itself, and their names in the log."""
_log = structlog.get_logger()


@dataclass(slots=True)
class EventLogger:
    """A listener of the event log."""

    _waiting: deque[Entry] = field(default_factory=deque, init=False)

    def take(self, entry: Entry) -> None:
        """Queue an entry."""
        if not self._waiting:
            asyncio.get_running_loop().call_later(LINGER, self.flush)
        self._waiting.append(entry)

    def flush(self) -> None:
        """Write the queued entries."""
        while self._waiting:
            write(self._waiting.popleft())


def write(entry: Entry) -> None:
    """Write one entry as a log line."""
    event = entry.event
    shown = {LOGGED_AS.get(name, name): value for name, value in event.shown().items()}
    at = datetime.fromtimestamp(entry.at, UTC).isoformat().replace("+00:00", "Z")
    getattr(_log, event.level)(event.name, component=event.logger, timestamp=at, **shown)
