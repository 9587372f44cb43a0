"""The time by which access expires: the wall clock, corrected by block time.

A wall clock that is set back would make expired access active again. Block time shows such a
change, but it comes from one endpoint: a forged time in the far future would end all access. The
time that counts is therefore chosen as follows.

    block time is ahead of the wall clock                       time that counts
    by up to `AHEAD`                                             block time
    by more, and an earlier reading of the wall clock agrees     the earlier of these two
    by more, and no reading does                                 the wall clock plus `AHEAD`

Both are advanced by the monotonic clock. An earlier reading comes from this process, or is the time
in the store at which the registry was last confirmed. A wall clock that ran fast and was corrected
agrees with block time again, so nothing stays expired. A wall clock that is ahead of block time
counts as it is.

The bound is the same with a quorum: the other endpoints confirm a block's hash and the tokens at
it, and a hash does not prove the time that one endpoint reports for it. So one endpoint can at
worst end access `AHEAD` early, for as long as it is followed. A wrong wall clock alone, at a first
start without a store, can at worst extend access by its error less `AHEAD`.
"""

import math
from dataclasses import dataclass, field
from typing import Final

AHEAD: Final = 86_400.0
"""Seconds: a clock that is set to local time, or to the previous day, is within this limit."""


@dataclass(slots=True)
class ExpiryClock:
    """The time for expiry, from pairs of Unix and monotonic seconds of the same moment."""

    _block: float = field(default=-math.inf, init=False)
    """Block time minus monotonic time."""
    _wall: float = field(default=-math.inf, init=False)
    """The greatest wall clock time minus monotonic time."""

    def adopted(self, block_time: float, monotonic: float) -> None:
        """Set the block time of our newest block, in place of an earlier one."""
        self._block = block_time - monotonic

    def seen(self, wall: float, monotonic: float) -> None:
        """Record a present or earlier reading of the wall clock."""
        self._wall = max(self._wall, wall - monotonic)

    def now(self, wall: float, monotonic: float) -> float:
        """Return the Unix time that counts for expiry."""
        self.seen(wall, monotonic)
        block, earlier = self._block + monotonic, self._wall + monotonic
        return max(wall, min(block, wall + AHEAD), min(block, earlier))
