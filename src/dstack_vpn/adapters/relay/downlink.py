"""From a stream to a UDP socket: one read, and as few sends as possible for its complete frames.

A single frame, the usual case in an idle tunnel, takes the shortest path. An incomplete frame at
the end is kept until the rest arrives. It has at most 64 KiB, which is all the memory that a silent
connection uses.
"""

from collections.abc import Callable
from typing import Final

from dstack_vpn.adapters.relay.counters import Counters
from dstack_vpn.adapters.relay.engine import Engine
from dstack_vpn.adapters.relay.outbox import READ, Sink
from dstack_vpn.adapters.relay.stream import Stream
from dstack_vpn.core.wireguard.framing import HEADER, LONGEST_FRAME, foreign_protocol, scan
from dstack_vpn.core.wireguard.wire import Watch

RUNS: Final = 2048
"""The number of runs delivered before other connections have their turn."""
_OPENING: Final = 4
"""Bytes that identify a foreign protocol."""
_MORE: Final = 1 << 13
"""Bytes in a read after which more probably follows: a TLS read returns at most one record."""


class Downlink:
    """Delivers the frames of one stream to a UDP socket."""

    def __init__(
        self,
        engine: Engine,
        stream: Stream,
        sink: Sink,
        watch: Watch,
        ended: Callable[[str], None],
    ) -> None:
        self.received = False
        """True if anything was received since the last check."""
        self.opened = False
        """True after the first complete frame."""
        self.foreign: str | None = None
        """The other protocol that the other side uses, if it was recognised."""
        self._engine, self._stream, self._sink, self._watch, self._ended = engine, stream, sink, watch, ended
        self._counters: Counters = sink.counters
        self._left = b""
        self._blocked = self._closed = self._held = False
        self._data, self._view = engine.outbox.received.data, engine.outbox.received.view
        engine.loop.add_reader(stream.descriptor, self._on_readable)
        if stream.pending():
            engine.loop.call_soon(self._on_readable)

    def close(self) -> None:
        """Stop reading; the owner closes the stream and the socket."""
        if not self._closed:
            self._closed = True
            self._engine.loop.remove_reader(self._stream.descriptor)
            if self._blocked:
                self._engine.loop.remove_writer(self._sink.descriptor)

    def hold(self, *, on: bool) -> None:
        """Pause reading, so that data stays in TCP's buffer, or resume it."""
        if self._closed or self._held is on:
            return
        self._held = on
        if on:
            self._engine.loop.remove_reader(self._stream.descriptor)
        elif not self._blocked:
            self._engine.loop.add_reader(self._stream.descriptor, self._on_readable)
            self._engine.loop.call_soon(self._on_readable)  # TLS may have read ahead

    # -- in ----------------------------------------------------------------------------------------

    def _on_readable(self) -> None:
        if self._closed or self._blocked or self._held:
            return
        have = len(self._left)
        if have > LONGEST_FRAME:
            self._deliver(self._restore())  # complete frames wait: deliver them before reading more
            return
        try:
            end = self._fill(self._restore())
        except OSError as error:
            self._end(str(error))
            return
        if end == have:
            return
        self.received = self._watch.received = True
        data = self._data
        if not have and self.opened and data[0] << 8 | data[1] == end - HEADER:
            self._deliver_single(end)
        else:
            self._deliver(end)

    def _restore(self) -> int:
        """Put the kept bytes in front of the next read; return their number."""
        have = len(self._left)
        if have:
            self._view[:have] = self._left
        return have

    def _fill(self, have: int) -> int:
        """Read after the first ``have`` bytes; return the new end, ``have`` if nothing arrived.

        Raises `OSError`, also at the end of the stream.
        """
        stream, view, end = self._stream, self._view, have
        while end < READ:
            count = stream.recv_into(view[end : READ + LONGEST_FRAME])
            if count == 0:
                if end > have:
                    break  # deliver these bytes first; the next read finds the end again
                raise ConnectionResetError("the other side closed the connection")
            if count is None:
                break
            end += count
            if stream.plain or (count < _MORE and not stream.pending()):
                break
        return end

    # -- out ---------------------------------------------------------------------------------------

    def _deliver_single(self, end: int) -> None:
        counters = self._counters
        counters.datagrams_down += 1
        counters.bytes_down += end - HEADER
        counters.batches_down += 1
        if not self._sink.send(self._view[HEADER:end]):
            self._block(self._view[:end])

    def _deliver(self, end: int) -> None:
        if not self.opened and not self._open(end):
            return
        runs, consumed = scan(self._data, end, RUNS)
        datagrams = sum(count + (tail >= 0) for _, _, count, tail in runs)
        stuck = self._engine.outbox.send(self._sink, runs) if runs else None
        counters = self._counters
        counters.datagrams_down += datagrams
        counters.bytes_down += consumed - HEADER * datagrams
        counters.batches_down += 1
        if stuck is not None:
            self._block(self._view[stuck:end])
            return
        self._left = bytes(self._view[consumed:end])
        if len(runs) == RUNS or self._stream.pending():
            self._engine.loop.call_soon(self._on_readable)

    def _open(self, end: int) -> bool:
        """Check the first bytes; return False if they are not frames, or too few to decide."""
        if end < _OPENING:
            whole = end >= HEADER and not (self._data[0] << 8 | self._data[1]) + HEADER > end
            if not whole:
                self._left = bytes(self._view[:end])
                return False
        self.foreign = foreign_protocol(bytes(self._view[:_OPENING]))
        if self.foreign is not None:
            self._counters.foreign += 1
            self._end(f"the other side speaks {self.foreign}, not UDP over TCP")
            return False
        self.opened = end >= HEADER + (self._data[0] << 8 | self._data[1])
        return True

    def _block(self, rest: memoryview) -> None:
        """Stop reading until the full UDP socket accepts datagrams again."""
        self._left, self._blocked = bytes(rest), True
        self._engine.loop.remove_reader(self._stream.descriptor)
        self._engine.loop.add_writer(self._sink.descriptor, self._unblock)

    def _unblock(self) -> None:
        self._blocked = False
        self._engine.loop.remove_writer(self._sink.descriptor)
        if not self._held:
            self._engine.loop.add_reader(self._stream.descriptor, self._on_readable)
        self._deliver(self._restore())

    def _end(self, reason: str) -> None:
        self.close()
        self._ended(reason)
