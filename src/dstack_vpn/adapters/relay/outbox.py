"""Sending of the stream's frames on a UDP socket, in as few calls as possible.

Runs of frames of equal size leave as one message that the kernel splits (UDP_SEGMENT), the others
by sendmmsg. If neither is available, frames leave one by one.
"""

import errno
import socket
import struct
from array import array
from collections.abc import Callable, Sequence
from typing import Final

from dstack_vpn.adapters.relay import vectors
from dstack_vpn.adapters.relay.counters import Counters, Drop
from dstack_vpn.adapters.relay.offload import SOL_UDP, UDP_SEGMENT, Offload
from dstack_vpn.adapters.relay.vectors import IOVEC, MMSGHDR, MOST, Memory, Message
from dstack_vpn.core.wireguard.framing import HEADER, LONGEST_FRAME, RUN, RUN_BYTES, Run

READ: Final = 1 << 18
"""The limit of bytes for one read from a stream."""
WORTH_IT: Final = 3
"""The least number of consecutive frames of equal size that are sent by a separate call."""
_MSG_DONTWAIT: Final = 0x40
_SEGMENT: Final = 16
"""Offset of the segment's size in the control message: a u16 after a struct cmsghdr."""
_TEMPLATES: Final = 1024
_PATIENCE: Final = 3
"""The number of a socket's pending errors after which the datagram counts as their cause."""


class Sink:
    """A connected UDP socket, and its known limits for sending."""

    __slots__ = ("counters", "descriptor", "longest_segment", "refused", "udp")

    def __init__(
        self, udp: socket.socket, offload: Offload, counters: Counters, refused: Callable[[], None]
    ) -> None:
        """Use a socket. ``refused`` is called for an ICMP error of an earlier datagram.

        The error appears here, and the reader of the socket may miss it.
        """
        self.refused = refused
        self.udp, self.descriptor, self.counters = udp, udp.fileno(), counters
        self.longest_segment = RUN_BYTES if offload.gso else 0
        """Bytes; the path may refuse longer segments, and some devices refuse all."""

    def send(self, datagram: memoryview) -> bool:
        """Send a datagram; return False if the socket is full.

        A datagram that can't be sent at all is dropped and counted.
        """
        for _ in range(_PATIENCE):
            try:
                self.udp.send(datagram)
            except BlockingIOError:
                return False
            except ConnectionRefusedError:
                self.refused()
                continue  # of an earlier datagram; this one was not sent
            except OSError as error:
                self.dropped(error.errno or 0)
            return True
        self.counters.drops[Drop.REFUSED] += 1
        return True

    def dropped(self, number: int) -> None:
        """Count a datagram that the kernel refused with the error ``number``."""
        self.counters.drops[Drop.OVERSIZE if number == errno.EMSGSIZE else Drop.REFUSED] += 1


class Outbox:
    """The buffer for reads from streams, and the messages that leave it; one per event loop."""

    def __init__(self, offload: Offload) -> None:
        self.received = Memory(READ + LONGEST_FRAME)
        self._mmsg = offload.mmsg
        self._control = Memory(24)
        struct.pack_into("QiiH", self._control.data, 0, 18, SOL_UDP, UDP_SEGMENT, 0)
        self._run = Message(self._control)
        self._templates: dict[tuple[int, int], bytes] = {}
        self._many = Message()
        self._headers = Memory(MOST * MMSGHDR)
        for index in range(MOST):
            where = self._many.buffers.address + index * IOVEC
            struct.pack_into("7Q2I", self._headers.data, index * MMSGHDR, 0, 0, where, 1, 0, 0, 0, 0, 0)

    def send(self, sink: Sink, runs: Sequence[Run]) -> int | None:
        """Send the runs in order; return the offset of the first frame that found the socket full.

        Returns None if all frames are sent or dropped.
        """
        first = 0
        for index, run in enumerate(runs):
            if run[2] < WORTH_IT or run[1] > sink.longest_segment:
                continue
            if first < index and (stuck := self._frames(sink, runs[first:index])) is not None:
                return stuck
            if (stuck := self._segments(sink, run)) is not None:
                return stuck
            first = index + 1
        return self._frames(sink, runs[first:]) if first < len(runs) else None

    def _segments(self, sink: Sink, run: Run) -> int | None:
        """Send a run as one message."""
        offset, size, count, tail = run
        total = count + (tail >= 0)
        self._run.bytes[: total * IOVEC] = self._template(offset, size)[: total * IOVEC]
        if tail >= 0:
            self._run.words[2 * total - 1] = tail
        control = self._control.data
        control[_SEGMENT], control[_SEGMENT + 1] = size & 255, size >> 8
        for _ in range(_PATIENCE):
            if self._run.send(sink.descriptor, total, _MSG_DONTWAIT) >= 0:
                return None
            number = vectors.errno()
            if number == errno.EAGAIN:
                return offset - HEADER
            if number != errno.ECONNREFUSED:
                # EINVAL: longer than the path's MTU. EIO: the device has no checksums to offer.
                sink.longest_segment = size - 1 if number in {errno.EINVAL, errno.EMSGSIZE} else 0
                return self._frames(sink, (run,))
            sink.refused()
        sink.counters.drops[Drop.REFUSED] += total
        return None

    def _template(self, offset: int, size: int) -> bytes:
        """Return the buffers for the longest possible run at this offset, from a cache.

        A read puts the rest of a frame in front, so under load the same runs begin at the same
        offsets.
        """
        key = (offset, size)
        if key not in self._templates:
            if len(self._templates) >= _TEMPLATES:
                self._templates.clear()
            base, stride = self.received.address + offset, size + HEADER
            starts = range(base, base + min(RUN, RUN_BYTES // size + 1) * stride, stride)
            self._templates[key] = struct.pack(
                f"{2 * len(starts)}Q", *(w for at in starts for w in (at, size))
            )
        return self._templates[key]

    def _frames(self, sink: Sink, runs: Sequence[Run]) -> int | None:
        """Send each frame of the runs as a separate message."""
        frames = _each(runs)
        for start in range(0, len(frames), MOST):
            part = frames[start : start + MOST]
            sent = self._many_at_once(sink, part) if self._mmsg else self._one_by_one(sink, part)
            if sent < len(part):
                return part[sent][0] - HEADER
        return None

    def _many_at_once(self, sink: Sink, frames: Sequence[tuple[int, int]]) -> int:
        assert vectors.sendmmsg is not None
        total, base, words = len(frames), self.received.address, self._many.words
        words[0 : 2 * total : 2] = array("Q", [base + offset for offset, _ in frames])
        words[1 : 2 * total : 2] = array("Q", [size for _, size in frames])
        sent, failures = 0, 0
        while sent < total:
            headers = self._headers.address + sent * MMSGHDR
            went: int = vectors.sendmmsg(sink.descriptor, headers, total - sent, _MSG_DONTWAIT)
            if went > 0:
                sent, failures = sent + went, 0
                continue
            number, failures = vectors.errno(), failures + 1
            if number == errno.EAGAIN:
                return sent
            if number == errno.ECONNREFUSED:
                sink.refused()
            if number != errno.ECONNREFUSED or failures == _PATIENCE:
                sink.dropped(number)
                sent, failures = sent + 1, 0
        return sent

    def _one_by_one(self, sink: Sink, frames: Sequence[tuple[int, int]]) -> int:
        view = self.received.view
        for index, (offset, size) in enumerate(frames):
            if not sink.send(view[offset : offset + size]):
                return index
        return len(frames)


def _each(runs: Sequence[Run]) -> list[tuple[int, int]]:
    """Return the offset and size of every frame in the runs."""
    frames: list[tuple[int, int]] = []
    for offset, size, count, tail in runs:
        frames.append((offset, size))
        if count > 1:
            stride = size + HEADER
            frames += ((offset + index * stride, size) for index in range(1, count))
            if tail >= 0:
                frames.append((offset + count * stride, tail))
    return frames
