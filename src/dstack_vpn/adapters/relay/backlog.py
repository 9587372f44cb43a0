"""Frames that wait for a stream: the newest ones, because WireGuard has no use for old ones."""

from collections import deque
from typing import Final

from dstack_vpn.adapters.relay.counters import Counters, Drop

LIMIT: Final = 1 << 16
"""Bytes."""


class Backlog:
    """A queue that is bounded by bytes, and drops its oldest."""

    def __init__(self, counters: Counters) -> None:
        self.size = 0
        """Bytes."""
        self._counters = counters
        self._chunks: deque[tuple[bytes, int]] = deque()

    def add(self, frames: bytes, datagrams: int) -> None:
        """Add some frames, which are that many datagrams."""
        self._chunks.append((frames, datagrams))
        self.size += len(frames)
        while self.size > LIMIT and len(self._chunks) > 1:
            oldest, dropped = self._chunks.popleft()
            self.size -= len(oldest)
            self._counters.drops[Drop.QUEUE] += dropped

    def take(self) -> tuple[bytes, int]:
        """All of it, and how many datagrams that is; then it is empty."""
        frames, datagrams = b"".join(chunk for chunk, _ in self._chunks), sum(n for _, n in self._chunks)
        self._chunks.clear()
        self.size = 0
        return frames, datagrams
