"""The blocks that we stand on, as far as they are remembered."""

from typing import Final

from dstack_vpn.core.model import BlockRef

LENGTH: Final = 8192
"""Blocks whose hash is remembered: more than finality takes on Base (20 minutes of 200 ms blocks)."""
PAST: Final = 1024
"""Blocks below the settled one whose hash is kept: they tell an endpoint that is far behind from a fork."""


class BlockHashes(dict[int, str]):
    """Each block's hash, by its height."""

    __slots__ = ()

    def settle(self, final: BlockRef) -> bool:
        """Forget what lies far below a block that is final; False where that is, or may be, none of ours."""
        if final.number < min(self) or self.get(final.number, final.hash) != final.hash:
            return False
        for height in [height for height in self if height <= final.number - PAST]:
            del self[height]
        self[final.number] = final.hash
        return True

    def drop_above(self, height: int) -> None:
        """Forget what lies above that height."""
        for above in [above for above in self if above > height]:
            del self[above]
