"""Facts about an endpoint that outlive its sessions, so that a reconnect need not learn them again."""

from dataclasses import dataclass, field
from typing import Final

from dstack_vpn.adapters.chain.tally import Calls
from dstack_vpn.core.chain.events import LoggedEvent
from dstack_vpn.core.model import BlockRef

_START: Final = 10_000
_LARGEST: Final = 100_000
_PATIENCE: Final = 16


@dataclass(slots=True)
class BlockSpan:
    """The number of blocks for one ``eth_getLogs``: halved if that was too many, doubled if not.

    What failed is not tried again for some successes, or every other call of a long backfill would fail.
    """

    size: int = _START
    _refused: int = _LARGEST + 1
    _patience: int = 0

    def served(self) -> None:
        """A call for that many blocks was answered."""
        self._patience = max(0, self._patience - 1)
        if not self._patience:
            self._refused = _LARGEST + 1
        if self.size * 2 < self._refused:
            self.size *= 2

    def refused(self, asked: int) -> None:
        """A call for that many blocks was too much."""
        self._refused = asked
        self._patience = _PATIENCE
        self.size = max(1, asked // 2)

    def failed(self, asked: int) -> None:
        """A call for that many blocks failed without a word about its size: ask for much less."""
        self.refused(asked)
        self.size = max(1, asked // 4)


@dataclass(frozen=True, slots=True)
class Progress:
    """A part of a long range of logs that was read: the next session goes on after it."""

    first: int
    until: BlockRef
    """The last block that was read; its hash shows later whether all of it still stands."""
    events: tuple[LoggedEvent, ...]


@dataclass(slots=True)
class EndpointCapabilities:
    """The facts learned about one endpoint."""

    span: BlockSpan = field(default_factory=BlockSpan)
    progress: Progress | None = None
    by_hash: bool = True
    """True if it answers ``eth_getLogs`` by a block's hash (EIP-234)."""
    page_size: int | None = None
    """The largest page of tokens that it served since one was too large; None: no page was."""
    first_block: int | None = None
    """The contract's first block, once it was looked for."""
    multicall: bool | None = None
    """True if its chain has Multicall3; None: not checked yet."""
    calls: Calls = field(default_factory=dict)
    """The cost of its calls."""
