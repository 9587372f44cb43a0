"""A relay's counters, as plain numbers: the fast paths add to them once for each batch."""

from dataclasses import dataclass, field
from enum import StrEnum


class Drop(StrEnum):
    """The reason why a datagram was dropped."""

    QUEUE = "queue"
    """The connection was slower than the source, or away: the oldest went."""
    OVERSIZE = "oversize"
    """Longer than a UDP datagram can be, or than the path takes."""
    REFUSED = "refused"
    """Nobody listens where it should go (ICMP port unreachable)."""
    LIMIT = "limit"
    """There were too many sources or connections already."""


@dataclass(slots=True)
class Counters:
    """Sums over all connections, since the start. Up is UDP to TCP, down is TCP to UDP."""

    datagrams_up: int = 0
    bytes_up: int = 0
    datagrams_down: int = 0
    bytes_down: int = 0
    batches_up: int = 0
    batches_down: int = 0
    """Times that the kernel was asked for more."""
    drops: dict[Drop, int] = field(default_factory=lambda: dict.fromkeys(Drop, 0))
    accepted: int = 0
    refused: int = 0
    """Connections, or UDP sources, that a limit kept out."""
    connects: int = 0
    connect_failures: int = 0
    reconnects: int = 0
    handshake_failures: int = 0
    foreign: int = 0
    """Connections that spoke another protocol."""
    stalls: int = 0
    """Times that an upstream was left because answers were overdue."""
