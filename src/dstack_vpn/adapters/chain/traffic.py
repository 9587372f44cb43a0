"""Counters of the JSON-RPC messages with one endpoint, by method.

A transport counts each message when it encodes or decodes it, so nothing is encoded for the count.
A batch over HTTP has one body for several calls. Each call's part of the request is exact. The
reply is divided equally. Methods are names that this program uses, so their number is bounded.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dstack_vpn.core.chain.usage import Usage, shares


@dataclass(slots=True)
class _Counter:
    count: int = 0
    sent: int = 0
    received: int = 0


class Traffic:
    """The messages with one endpoint since the start."""

    def __init__(self) -> None:
        self._by_method: defaultdict[str, _Counter] = defaultdict(_Counter)

    def requested(self, method: str, size: int) -> None:
        """Count a request of ``size`` bytes."""
        counter = self._by_method[method]
        counter.count += 1
        counter.sent += size

    def replied(self, methods: Sequence[str], size: int) -> None:
        """Count the reply, of ``size`` bytes, to calls of these methods."""
        for method, share in zip(methods, shares(size, len(methods)), strict=True):
            self._by_method[method].received += share

    def unasked(self, method: str, size: int) -> None:
        """Count a message of ``size`` bytes of a method in `core.chain.usage.UNASKED`."""
        counter = self._by_method[method]
        counter.count += 1
        counter.received += size

    def usage(self) -> Mapping[str, Usage]:
        """Return the use of each method."""
        return {name: Usage(x.count, x.sent, x.received) for name, x in self._by_method.items()}


def size_of(text: str | bytes) -> int:
    """Return the size of a message in bytes."""
    return len(text) if isinstance(text, bytes) or text.isascii() else len(text.encode())
