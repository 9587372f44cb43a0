"""Log lines that strangers can cause at will: each kind once in a while, with how often it was left out."""

import time
from dataclasses import dataclass, field
from typing import Any, Final

PAUSE: Final = 60.0
"""Seconds between lines of a kind."""


@dataclass(slots=True)
class RateLimitedLogger:
    """Wraps a structlog logger."""

    log: Any
    _told: dict[str, tuple[float, int]] = field(default_factory=dict)

    def warning(self, event: str, **values: object) -> None:
        """Log at level warning, unless that event was logged lately."""
        self._tell("warning", event, values)

    def error(self, event: str, **values: object) -> None:
        """The same at level error."""
        self._tell("error", event, values)

    def _tell(self, level: str, event: str, values: dict[str, object]) -> None:
        now = time.monotonic()
        last, left_out = self._told.get(event, (-PAUSE, 0))
        if now - last < PAUSE:
            self._told[event] = (last, left_out + 1)
            return
        self._told[event] = (now, 0)
        more = {"left_out": left_out} if left_out else {}
        getattr(self.log, level)(event, **values, **more)
