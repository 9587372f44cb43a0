"""A logger for entries that unknown sources can cause at will.

Each kind is logged once a minute, with the number of entries that were dropped.
"""

import time
from dataclasses import dataclass, field
from typing import Any, Final

PAUSE: Final = 60.0
"""Seconds between entries of a kind."""


@dataclass(slots=True)
class RateLimitedLogger:
    """A rate-limited wrapper of a structlog logger."""

    log: Any
    _logged: dict[str, tuple[float, int]] = field(default_factory=dict)

    def warning(self, event: str, **values: object) -> None:
        """Log at level warning, unless the event was logged within `PAUSE`."""
        self._write("warning", event, values)

    def error(self, event: str, **values: object) -> None:
        """Log at level error, unless the event was logged within `PAUSE`."""
        self._write("error", event, values)

    def _write(self, level: str, event: str, values: dict[str, object]) -> None:
        now = time.monotonic()
        last, left_out = self._logged.get(event, (-PAUSE, 0))
        if now - last < PAUSE:
            self._logged[event] = (last, left_out + 1)
            return
        self._logged[event] = (now, 0)
        more = {"left_out": left_out} if left_out else {}
        getattr(self.log, level)(event, **values, **more)
