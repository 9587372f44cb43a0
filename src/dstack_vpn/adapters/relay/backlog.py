"""Frames that wait for a stream: only the newest, because old ones are useless to WireGuard."""

from collections import deque
from typing import Final

from dstack_vpn.adapters.relay.counters import Counters, Drop

LIMIT: Final = 1 << 16
"""The maximum size, in bytes."""


class Backlog:
    """A queue with a maximum size in bytes, which drops the oldest frames."""

    def __init__(self, counters: Counters) -> None:
        self.size = 0
        """Bytes."""
        self._counters = counters
        self._chunks: deque[tuple[bytes, int]] = deque()

    def add(self, frames: bytes, datagrams: int) -> None:
        """Append frames that hold this number of datagrams."""
        self._chunks.append((frames, datagrams))
        self.size += len(frames)
        while self.size > LIMIT and len(self._chunks) > 1:
            oldest, dropped = self._chunks.popleft()
            self.size -= len(oldest)
            self._counters.drops[Drop.QUEUE] += dropped

    def take(self) -> tuple[bytes, int]:
        """Remove and return all frames, with their number of datagrams."""
        frames, datagrams = b"".join(chunk for chunk, _ in self._chunks), sum(n for _, n in self._chunks)
        self._chunks.clear()
        self.size = 0
        return frames, datagrams
