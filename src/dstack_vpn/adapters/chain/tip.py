"""The heads that an endpoint has shown: is a lower one a backend that lags, or a chain that was cut short?"""

from typing import Final

from dstack_vpn.core.model import BlockRef

_REMEMBERED: Final = 256


class Shown:
    """Blocks that one endpoint has shown, whichever of its backends did."""

    def __init__(self) -> None:
        self._hashes: dict[int, str] = {}
        self.highest: BlockRef | None = None

    def note(self, block: BlockRef) -> None:
        """Take note of a head that does not lag: what was above it, if anything was, is gone."""
        self._hashes.pop(block.number, None)
        self._hashes[block.number] = block.hash
        while len(self._hashes) > _REMEMBERED:
            del self._hashes[next(iter(self._hashes))]
        self.highest = block

    def may_lag(self, block: BlockRef) -> bool:
        """Return True if a lower block only shows that its backend is behind."""
        highest = self.highest
        if highest is None or block.number >= highest.number:
            return False
        return self._hashes.get(block.number, block.hash) == block.hash

    def has(self, number: int) -> bool:
        """Return True if a block of that height or above was seen."""
        return self.highest is not None and number <= self.highest.number
