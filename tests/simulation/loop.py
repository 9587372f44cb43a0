"""An event loop in simulated time. It never waits, but moves its clock to the next timer."""

import asyncio
import selectors
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

_T = TypeVar("_T")

MOST_ROUNDS = 5_000_000
"""The number of rounds of the loop after which a run counts as stuck."""


class _Selector(selectors.BaseSelector):
    """A selector without events: only the loop's own wake-up pipe is registered."""

    def __init__(self) -> None:
        self.now, self.rounds = 0.0, 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "all tasks wait, and no timer is set"
        self.rounds += 1
        assert self.rounds < MOST_ROUNDS, f"the clock is stuck at {self.now}"
        # A round takes a nanosecond: without it, rounding errors could keep a timer from its time.
        self.now += max(timeout, 0.0) + 1e-9
        return []

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return selectors.SelectorKey(fileobj, 0, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return selectors.SelectorKey(fileobj, 0, 0, None)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return {}


class SimulatedLoop(asyncio.SelectorEventLoop):
    """An event loop whose time begins at 0 seconds."""

    def __init__(self) -> None:
        self._clock = _Selector()
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.now


def simulate(main: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine in simulated time."""
    with asyncio.Runner(loop_factory=SimulatedLoop) as runner:
        return runner.run(main)


class LoopClock:
    """Implements `ports.Clock` by the running loop's time."""

    EPOCH = 1_700_000_000.0

    def now(self) -> float:
        return self.EPOCH + self.monotonic()

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()
