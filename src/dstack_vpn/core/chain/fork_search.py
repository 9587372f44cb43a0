"""The search for common ground with a chain, as `core.chain.follower` does it."""

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field

from dstack_vpn.core.chain.events import LoggedEvent
from dstack_vpn.core.model import BlockRef


@dataclass(slots=True)
class ForkSearch:
    """The search for the newest block that we and the chain agree on, and what follows from it."""

    target: BlockRef | None
    """Where the walk is to end; None while the latest head is being asked for."""
    heights: list[int] = field(default_factory=list)
    """The heights that we have a hash for, below the target."""
    low: int = -1
    """The last index into ``heights`` where the hashes are known to be equal, or -1."""
    high: int = 0
    """The first index where they are known to differ, or the end."""
    stride: int = 1
    contested: bool = False
    """Whether we have another block at the target's height."""
    events: list[LoggedEvent] | None = None
    """The logs above the common block, once they were fetched."""

    @property
    def common(self) -> int:
        """The height of the newest common block, when `low` and `high` have met."""
        return self.heights[self.low]

    @property
    def forked(self) -> bool:
        """Whether a block of ours is known to be none of the chain's."""
        return self.contested or self.high < len(self.heights)

    def aim(self, target: BlockRef, ring: Mapping[int, str]) -> None:
        """Set out for a head (not one of ours) from our blocks, whose hashes are in ``ring`` by height."""
        self.target, self.contested = target, target.number in ring
        self.heights = sorted(height for height in ring if height < target.number)
        self.high = len(self.heights)
        if ring.get(target.number - 1) == target.parent_hash:
            self.low = bisect_left(self.heights, target.number - 1)  # no need to ask

    def probe(self) -> int:
        """The next height to compare: forks are shallow, so gallop down from the top, then bisect."""
        index = max(self.high - self.stride, 0) if self.low < 0 else (self.low + self.high) // 2
        return self.heights[index]

    def narrow(self, height: int, *, equal: bool) -> None:
        """Take in the answer to a probe."""
        index = bisect_left(self.heights, height)
        if equal:
            self.low = index
        else:
            self.high, self.stride = index, self.stride * 2
