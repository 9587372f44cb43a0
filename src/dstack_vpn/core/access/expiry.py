"""The time by which access expires: the wall clock, corrected by block time.

A wall clock that is set back would make expired access active again. Block time shows that, but one
endpoint reports it: a forged time in the far future would end all access. It therefore counts as follows.

    block time is ahead of the wall clock                       judged by
    by up to `AHEAD`                                             block time
    by more, and an earlier reading of the wall clock agrees     the earlier of these two
    by more, and no reading does                                 the wall clock plus `AHEAD`

Both are carried forward by the monotonic clock. An earlier reading is one of this process, or the time in the
store at which the registry was last confirmed. A wall clock that ran fast and was put right agrees with block
time again, so nothing stays expired. A wall clock that is ahead of block time counts as it is.

The bound is the same with a quorum: the other endpoints confirm a block's hash and the tokens at it, and a
hash does not prove the time that one endpoint gives for it. So one endpoint can at worst end access `AHEAD`
early, for as long as it is followed. A wrong wall clock alone, at a first start without a store, can at worst
extend access by its error less `AHEAD`.
"""

import math
from dataclasses import dataclass, field
from typing import Final

AHEAD: Final = 86_400.0
"""Seconds: a clock that was set to local time, or to the day before, is within them."""


@dataclass(slots=True)
class ExpiryClock:
    """Judges the time. What it is given are Unix seconds, and monotonic seconds of the same moment."""

    _block: float = field(default=-math.inf, init=False)
    """Block time less monotonic time."""
    _wall: float = field(default=-math.inf, init=False)
    """The greatest wall clock time less monotonic time."""

    def adopted(self, block_time: float, monotonic: float) -> None:
        """A block of that time is our newest: what an earlier one said is void."""
        self._block = block_time - monotonic

    def seen(self, wall: float, monotonic: float) -> None:
        """The wall clock stands, or stood, at that time."""
        self._wall = max(self._wall, wall - monotonic)

    def now(self, wall: float, monotonic: float) -> float:
        """Return the Unix time to judge by."""
        self.seen(wall, monotonic)
        block, earlier = self._block + monotonic, self._wall + monotonic
        return max(wall, min(block, wall + AHEAD), min(block, earlier))
