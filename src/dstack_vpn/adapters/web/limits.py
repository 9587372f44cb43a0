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
PAGE: Final = 800.0
"""Requests of a proxy's client that may come at once: a page of 400 parts, and once more."""
LONGEST_OF_A_PROXY: Final = 0.25
"""Seconds."""
CLIENTS: Final = 4096
"""Clients that are remembered."""


@dataclass(slots=True)
class Bucket:
    """Lets ``rate`` through a second, after a burst of ``burst``."""

    rate: float
    burst: float
    _free_at: float = 0.0
    """When it would be full again, in monotonic seconds."""

    def take(self, now: float, longest: float = LONGEST) -> float | None:
        """Seconds to wait for one's turn; None, and nothing is taken, if that is longer than ``longest``."""
        step = 1 / self.rate
        free_at = max(self._free_at, now) + step
        wait = max(free_at - now - self.burst * step, 0.0)
        if wait > longest:
            return None
        self._free_at = free_at
        return wait


@dataclass(slots=True)
class Limiter:
    """A bucket for each client, and one for all."""

    monotonic: Callable[[], float]
    rate: float = RATE
    burst: float = BURST
    burst_of_all: float = 2 * BURST
    longest: float = LONGEST
    """Seconds for which a request may be held back."""
    _all: Bucket = field(init=False)
    _clients: OrderedDict[str, Bucket] = field(default_factory=OrderedDict)

    def __post_init__(self) -> None:
        self._all = Bucket(RATE_OF_ALL, self.burst_of_all)

    def take(self, client: str, *, shared: bool = True) -> float | None:
        """Seconds to wait before answering; None: refuse.

        What is not ``shared`` is bounded by client alone: nobody else can use it up for a health check.
        """
        now = self.monotonic()
        bucket = self._clients.pop(client, None) or Bucket(self.rate, self.burst)
        self._clients[client] = bucket
        if len(self._clients) > CLIENTS:
            self._clients.popitem(last=False)
        wait = bucket.take(now, self.longest)
        if wait is None or not shared:
            return wait
        turn = self._all.take(now, self.longest)
        return None if turn is None else max(wait, turn)


def for_proxies(monotonic: Callable[[], float]) -> Limiter:
    """Return the limiter of a proxy's questions about its clients.

    A page has hundreds of parts, and a browser asks for a hundred at once. Each question holds one of the
    proxy's connections, so it is held back for less long.
    """
    return Limiter(monotonic, burst=PAGE, burst_of_all=2 * PAGE, longest=LONGEST_OF_A_PROXY)
