"""The search for the newest common block with a chain, for `core.chain.follower`."""

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field

from dstack_vpn.core.chain.events import LoggedEvent
from dstack_vpn.core.model import BlockRef


@dataclass(slots=True)
class ForkSearch:
    """A search for the newest block that we and the chain have in common."""

    target: BlockRef | None
    """The block at which the walk ends; None until the latest head is fetched."""
    heights: list[int] = field(default_factory=list)
    """The heights below the target for which we have a hash, ascending."""
    low: int = -1
    """The last index into ``heights`` at which the hashes are known to be equal, or -1."""
    high: int = 0
    """The first index at which they are known to differ, or the end."""
    stride: int = 1
    contested: bool = False
    """We have another block at the target's height."""
    changed: bool = False
    """The contract has changed: the logs are fetched even if they should have been announced."""
    events: list[LoggedEvent] | None = None
    """The logs above the common block; None until they are fetched."""

    @property
    def common(self) -> int:
        """Return the height of the newest common block, once `low` and `high` are adjacent."""
        return self.heights[self.low]

    @property
    def forked(self) -> bool:
        """Return whether one of our blocks is known not to be on the chain."""
        return self.contested or self.high < len(self.heights)

    def aim(self, target: BlockRef, ring: Mapping[int, str]) -> None:
        """Start towards a head that is not ours; ``ring`` has our blocks' hashes by height."""
        self.target, self.contested = target, target.number in ring
        self.heights = sorted(height for height in ring if height < target.number)
        self.high = len(self.heights)
        if ring.get(target.number - 1) == target.parent_hash:
            self.low = bisect_left(self.heights, target.number - 1)  # no need to fetch headers

    def probe(self) -> int:
        """Return the next height to compare.

        Forks are shallow, so the search gallops down from the top, then bisects.
        """
        index = max(self.high - self.stride, 0) if self.low < 0 else (self.low + self.high) // 2
        return self.heights[index]

    def narrow(self, height: int, *, equal: bool) -> None:
        """Apply the result of a probe."""
        index = bisect_left(self.heights, height)
        if equal:
            self.low = index
        else:
            self.high, self.stride = index, self.stride * 2
