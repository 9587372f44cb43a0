"""The hashes of the recent blocks of the followed chain."""

from typing import Final

from dstack_vpn.core.model import BlockRef

LENGTH: Final = 8192
"""Blocks whose hash is kept: more than finality takes on Base (20 minutes of 200 ms blocks)."""
PAST: Final = 1024
"""Blocks below the settled one whose hash is kept.

They distinguish an endpoint that is far behind from a fork.
"""


class BlockHashes(dict[int, str]):
    """The block hashes by height."""

    __slots__ = ()

    def settle(self, final: BlockRef) -> bool:
        """Forget the hashes far below a final block.

        Returns False if that block is not, or may not be, one of ours.
        """
        if final.number < min(self) or self.get(final.number, final.hash) != final.hash:
            return False
        for height in [height for height in self if height <= final.number - PAST]:
            del self[height]
        self[final.number] = final.hash
        return True

    def drop_above(self, height: int) -> None:
        """Forget the hashes above that height."""
        for above in [above for above in self if above > height]:
            del self[above]
