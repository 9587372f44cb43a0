"""Facts about an endpoint that outlive its sessions: a reconnect need not learn them again."""

from dataclasses import dataclass, field
from typing import Final

from dstack_vpn.adapters.chain.method_stats import Calls
from dstack_vpn.adapters.chain.traffic import Traffic
from dstack_vpn.core.chain.events import LoggedEvent
from dstack_vpn.core.model import BlockRef

_START: Final = 10_000
_LARGEST: Final = 100_000
_PATIENCE: Final = 16


@dataclass(slots=True)
class BlockSpan:
    """The number of blocks of one ``eth_getLogs`` call.

    It is halved after a refusal and doubled after a success. A refused size is not tried again for
    16 successes. Otherwise every second call of a long backfill would fail.
    """

    size: int = _START
    _refused: int = _LARGEST + 1
    _patience: int = 0

    def served(self) -> None:
        """Record a successful call."""
        self._patience = max(0, self._patience - 1)
        if not self._patience:
            self._refused = _LARGEST + 1
        if self.size * 2 < self._refused:
            self.size *= 2

    def refused(self, asked: int) -> None:
        """Record that ``asked`` blocks were too many."""
        self._refused = asked
        self._patience = _PATIENCE
        self.size = max(1, asked // 2)

    def failed(self, asked: int) -> None:
        """Record a failure for another reason. The next call requests a quarter of ``asked``."""
        self.refused(asked)
        self.size = max(1, asked // 4)


@dataclass(frozen=True, slots=True)
class Progress:
    """The part of a long range of logs that was read. The next session continues after it."""

    first: int
    until: BlockRef
    """The last block that was read. Its hash shows later whether the part is still on the chain."""
    events: tuple[LoggedEvent, ...]


@dataclass(slots=True)
class EndpointCapabilities:
    """The facts learned about one endpoint."""

    span: BlockSpan = field(default_factory=BlockSpan)
    progress: Progress | None = None
    by_hash: bool = True
    """True if the endpoint supports ``eth_getLogs`` by block hash (EIP-234)."""
    page_size: int | None = None
    """The largest page of tokens served since a page was too large. None: no page was too large."""
    first_block: int | None = None
    """The contract's first block. None: not searched yet."""
    multicall: bool | None = None
    """True if Multicall3 is deployed on the chain. None: not checked yet."""
    proof_after: float = 0.0
    """The monotonic time before which it is not asked for a proof: it refused the last one."""
    extension_after: float = 0.0
    """The monotonic time before which it is not asked for an `Extension`."""
    not_extended: int = 0
    """Its replies in a row that did not show our block."""
    calls: Calls = field(default_factory=dict)
    """The statistics of its calls."""
    traffic: Traffic = field(default_factory=Traffic)
    """The counters of its messages."""
