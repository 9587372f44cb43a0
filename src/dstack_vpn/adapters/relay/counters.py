"""A relay's counters, as plain numbers. The fast paths add to them once per batch."""

from dataclasses import dataclass, field
from enum import StrEnum


class Drop(StrEnum):
    """The reason why a datagram was dropped."""

    QUEUE = "queue"
    """The connection was slower than the source, or down: the oldest datagrams were dropped."""
    OVERSIZE = "oversize"
    """Longer than a UDP datagram can be, or than the path allows."""
    REFUSED = "refused"
    """The destination port is closed (ICMP port unreachable)."""
    LIMIT = "limit"
    """The limit of sources or connections was reached."""


@dataclass(slots=True)
class Counters:
    """Totals over all connections since the start. Up is UDP to TCP, down is TCP to UDP."""

    datagrams_up: int = 0
    bytes_up: int = 0
    datagrams_down: int = 0
    bytes_down: int = 0
    batches_up: int = 0
    batches_down: int = 0
    """The number of reads, in each direction."""
    drops: dict[Drop, int] = field(default_factory=lambda: dict.fromkeys(Drop, 0))
    accepted: int = 0
    refused: int = 0
    """Connections, or UDP sources, that a limit refused."""
    connects: int = 0
    connect_failures: int = 0
    reconnects: int = 0
    handshake_failures: int = 0
    foreign: int = 0
    """Connections that used another protocol."""
    stalls: int = 0
    """The number of times that an upstream was left because answers were overdue."""
