"""Sending of frames over a stream. While unsent frames are held, their UDP socket is not read.

After a long stop, or without a stream, only the newest datagrams are kept: old ones are useless to
WireGuard.
"""

import errno
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from dstack_vpn.adapters.relay import vectors
from dstack_vpn.adapters.relay.backlog import Backlog
from dstack_vpn.adapters.relay.counters import Counters, Drop
from dstack_vpn.adapters.relay.engine import Engine
from dstack_vpn.adapters.relay.stream import Buffer, Stream
from dstack_vpn.adapters.relay.vectors import Message
from dstack_vpn.core.wireguard.framing import HEADER, frame

HELD: Final = 1 << 18
"""The maximum number of held bytes; a batch's frames beyond it are dropped."""
STALE: Final = 0.25
"""Seconds after which a blocked stream is sent only the newest datagrams."""
_DONT_WAIT: Final = 0x4040
"""MSG_DONTWAIT and MSG_NOSIGNAL."""


@dataclass(frozen=True, slots=True)
class DatagramSource:
    """The callbacks to the source of the frames."""

    pause: Callable[[], None]
    """Stop reading."""
    resume: Callable[[], None]
    """Resume reading."""
    catch_up: Callable[[], None]
    """Move all queued datagrams to the backlog."""
    failed: Callable[[str], None]
    """Report that the stream is broken, with the reason."""


class Sender:
    """Sends frames over the attached stream."""

    def __init__(self, engine: Engine, counters: Counters, source: DatagramSource) -> None:
        self.sent = False
        """True if anything was sent since the last check."""
        self.stream: Stream | None = None
        self.backlog = Backlog(counters)
        self._engine, self._counters, self._source = engine, counters, source
        self._held = bytearray()
        self._blocked = 0.0

    @property
    def queued(self) -> int:
        """The number of waiting bytes."""
        return len(self._held) + self.backlog.size

    def attach(self, stream: Stream) -> None:
        """Send over this stream."""
        self.detach()
        self.stream = stream

    def detach(self) -> None:
        """Stop sending over the stream."""
        if self.stream is not None and self._held:
            self._engine.loop.remove_writer(self.stream.descriptor)
            self._held = bytearray()
        self.stream = None

    def offer(self, datagram: bytes) -> None:
        """Send a datagram, or keep it until it can be sent."""
        if self.stream is None or self._held:
            self.backlog.add(frame(datagram), 1)
        else:
            self.put(frame(datagram), 1)

    def send_backlog(self) -> None:
        """Send the kept datagrams."""
        frames, datagrams = self.backlog.take()
        if frames:
            self.put(frames, datagrams)

    def count(self, datagrams: int, size: int) -> None:
        """Count sent datagrams."""
        counters = self._counters
        counters.datagrams_up += datagrams
        counters.bytes_up += size
        counters.batches_up += 1
        self.sent = True

    def put(self, frames: Buffer, datagrams: int) -> None:
        """Send contiguous frames, and hold the unsent rest."""
        if self._held:
            return self._drop(datagrams)
        self.count(datagrams, len(frames) - HEADER * datagrams)
        if self.stream is None:
            return None
        try:
            sent = self.stream.send(frames)
        except OSError as error:
            return self._source.failed(str(error))
        if sent < len(frames):
            self._hold(bytearray(frames[sent:]))
        return None

    def put_message(self, message: Message, buffers: int, total: int) -> None:
        """Send frames as a message of many buffers, and hold the unsent rest."""
        if self.stream is None or self._held:
            return self._drop(buffers // 2)  # the batch's first part has filled the stream, or ended it
        sent = message.send(self.stream.descriptor, buffers, _DONT_WAIT)
        if sent == total:
            return None
        if sent < 0:
            number = vectors.errno()
            if number != errno.EAGAIN:
                return self._source.failed(os.strerror(number))
            sent = 0
        rest, dropped = message.after(buffers, sent, HELD)
        self._drop(dropped)
        self._hold(rest)
        return None

    def _hold(self, rest: bytearray) -> None:
        """Stop reading until the stream accepts more; the UDP socket's buffer fills up."""
        assert self.stream is not None
        self._held, self._blocked = rest, time.monotonic()
        self._source.pause()
        self._engine.loop.add_writer(self.stream.descriptor, self._flush)

    def _flush(self) -> None:
        assert self.stream is not None
        try:
            sent = self.stream.send(self._held)
        except OSError as error:
            return self._source.failed(str(error))
        del self._held[:sent]
        if self._held:
            return None
        self._engine.loop.remove_writer(self.stream.descriptor)
        self._source.resume()
        if time.monotonic() - self._blocked > STALE:
            self._source.catch_up()
            self.send_backlog()
        return None

    def _drop(self, datagrams: int) -> None:
        self._counters.drops[Drop.QUEUE] += datagrams
