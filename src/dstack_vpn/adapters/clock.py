"""The system's clocks, for whom time is an argument."""

import time


class SystemClock:
    """Implements `ports.Clock`."""

    def now(self) -> float:
        """Unix seconds."""
        return time.time()  # noqa: TID251 - the one place

    def monotonic(self) -> float:
        """Seconds that never go back."""
        return time.monotonic()
