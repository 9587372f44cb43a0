"""The system's clocks."""

import time


class SystemClock:
    """See `ports.Clock`."""

    def now(self) -> float:
        """Return Unix seconds."""
        return time.time()  # noqa: TID251 - other code gets the time as an argument

    def monotonic(self) -> float:
        """Return seconds of a clock that never goes back."""
        return time.monotonic()
