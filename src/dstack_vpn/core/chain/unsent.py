"""Transactions that a command shows instead of sending them."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto

from dstack_vpn.core.model import Address
from dstack_vpn.errors import DstackVpnError


class Mode(Enum):
    """The use of a transaction."""

    SEND = auto()
    DRY_RUN = auto()
    """Simulate it, and estimate its gas."""
    CALLDATA = auto()
    """Show its content, for another wallet."""


@dataclass(frozen=True, slots=True)
class Unsent:
    """A transaction that was not sent. Its value is 0."""

    chain_id: int
    to: Address | None
    """None creates a contract."""
    data: bytes
    sender: Address | None = None
    """The account for which it was simulated; None: it was not simulated."""
    gas: int | None = None
    """The estimate of a dry run."""
    highest_fee: int | None = None
    """The maximum fee in wei that it would offer now."""


class WithheldError(DstackVpnError):
    """Ends a command that must not send its transactions; not a failure."""

    def __init__(self, transactions: Sequence[Unsent]) -> None:
        super().__init__("the transaction was not sent, as requested")
        self.transactions = tuple(transactions)
