"""The heads that an endpoint has returned.

They distinguish a lower head of a backend that lags from a chain that became shorter.
"""

from typing import Final

from dstack_vpn.core.model import BlockRef

_REMEMBERED: Final = 256


class SeenHeads:
    """The blocks that one endpoint has returned, from any of its backends."""

    def __init__(self) -> None:
        self._hashes: dict[int, str] = {}
        self.highest: BlockRef | None = None

    def note(self, block: BlockRef) -> None:
        """Record a head that does not lag. Blocks above it are no longer on the chain."""
        self._hashes.pop(block.number, None)
        self._hashes[block.number] = block.hash
        while len(self._hashes) > _REMEMBERED:
            del self._hashes[next(iter(self._hashes))]
        self.highest = block

    def may_lag(self, block: BlockRef) -> bool:
        """Return True if a lower block may come from a backend that is behind."""
        highest = self.highest
        if highest is None or block.number >= highest.number:
            return False
        return self._hashes.get(block.number, block.hash) == block.hash

    def has(self, number: int) -> bool:
        """Return True if the endpoint has returned a block of that height or above."""
        return self.highest is not None and number <= self.highest.number
