"""How much one client, and all of them together, may ask for.

A client that asks too fast is answered later, and so can't ask again sooner; one that has too much waiting
is refused. What is refused was made to wait first, so that a loop of refusals costs little.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

RATE: Final = 200.0
"""Requests a second from one client..."""
RATE_OF_ALL: Final = 1000.0
"""...and from all together."""
BURST: Final = 40.0
"""Requests that may come at once."""
LONGEST: Final = 1.0
"""Seconds for which a request may be held back."""
CLIENTS: Final = 4096
"""Clients that are remembered."""


@dataclass(slots=True)
class Bucket:
    """Lets ``rate`` through a second, after a burst of ``burst``."""

    rate: float
    burst: float
    _free_at: float = 0.0
    """When it would be full again, in monotonic seconds."""

    def take(self, now: float) -> float | None:
        """Seconds to wait for one's turn; None, and nothing is taken, where that is longer than `LONGEST`."""
        step = 1 / self.rate
        free_at = max(self._free_at, now) + step
        wait = max(free_at - now - self.burst * step, 0.0)
        if wait > LONGEST:
            return None
        self._free_at = free_at
        return wait


@dataclass(slots=True)
class Limiter:
    """A bucket for each client, and one for all."""

    monotonic: Callable[[], float]
    rate: float = RATE
    _all: Bucket = field(default_factory=lambda: Bucket(RATE_OF_ALL, 2 * BURST))
    _clients: OrderedDict[str, Bucket] = field(default_factory=OrderedDict)

    def take(self, client: str, *, shared: bool = True) -> float | None:
        """Seconds to wait before answering; None: refuse, after `LONGEST`.

        What is not ``shared`` is bounded by client alone: nobody else can use it up for a health check.
        """
        now = self.monotonic()
        bucket = self._clients.pop(client, None) or Bucket(self.rate, BURST)
        self._clients[client] = bucket
        if len(self._clients) > CLIENTS:
            self._clients.popitem(last=False)
        wait = bucket.take(now)
        if wait is None or not shared:
            return wait
        turn = self._all.take(now)
        return None if turn is None else max(wait, turn)
