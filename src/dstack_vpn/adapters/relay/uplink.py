"""From a UDP socket to a stream, in two gears.

Lone: datagrams come now and then, and each should leave at once. One receive, one send, the length written
ahead of the datagram where it lies; UDP_GRO is off. This has the fewest steps, which is what counts when the
caches are cold.

Bulk: datagrams come faster than that can be done. Many are received in one call, coalesced by UDP_GRO where
their source is one, and leave as one message of many buffers: no work in Python for each datagram.

It shifts up when more than 2,000 datagrams a second come, and down when lone ones come again, over an empty
queue only: what UDP_GRO has coalesced, the lone gear would take for one long datagram.

A stream that takes no more stops the reading: the socket's buffer holds what comes, and then drops. After a
long stop, or without a stream, only the newest datagrams are kept: WireGuard has no use for old ones.
"""

import array
import errno
import fcntl
import os
import socket
import termios
import time
from collections.abc import Callable
from typing import Final

from dstack_vpn.adapters.relay import vectors
from dstack_vpn.adapters.relay.backlog import Backlog
from dstack_vpn.adapters.relay.counters import Counters, Drop
from dstack_vpn.adapters.relay.engine import Engine
from dstack_vpn.adapters.relay.inbox import COALESCED_SLOTS, SLOTS
from dstack_vpn.adapters.relay.offload import SOL_UDP, UDP_GRO
from dstack_vpn.adapters.relay.stream import Buffer, Stream
from dstack_vpn.adapters.relay.vectors import Message
from dstack_vpn.core.framing import HEADER, LONGEST_FRAME, frame
from dstack_vpn.core.wgwire import INITIATION, INITIATION_SIZE, Watch

SHIFT_UP: Final = (16, 0.008)
"""So many datagrams within so many seconds."""
SHIFT_DOWN: Final = (32, 0.032)
"""So many lone datagrams within no less than so many seconds."""
HELD: Final = 1 << 18
"""Bytes of frames that wait for a stream at most; a batch's frames beyond are dropped."""
STALE: Final = 0.25
"""Seconds after which a stream that took nothing finds only the newest datagrams."""
DRAINED: Final = 64
"""Datagrams that are read in one go where there is no recvmmsg."""
_DONT_WAIT: Final = 0x4040
"""MSG_DONTWAIT and MSG_NOSIGNAL."""


class Uplink:
    """Datagrams of one connected UDP socket, onto whichever stream is attached."""

    def __init__(
        self, engine: Engine, udp: socket.socket, counters: Counters, failed: Callable[[str], None]
    ) -> None:
        self.watch = Watch()
        self.sent = False
        """Whether anything was sent since somebody last looked."""
        self._engine, self._udp, self._counters, self._failed = engine, udp, counters, failed
        self._descriptor = udp.fileno()
        self._stream: Stream | None = None
        self._held = bytearray()
        self._blocked = 0.0
        self._backlog = Backlog(counters)
        self._slots, self._count, self._since = SLOTS, 0, time.monotonic()
        self._bulk = False
        self._data, self._view = engine.inbox.slots.data, engine.inbox.slots.view
        self._room = self._view[HEADER:LONGEST_FRAME]
        engine.widen(udp)
        self._read()

    # -- life -----------------------------------------------------------------------------------------

    def attach(self, stream: Stream) -> None:
        """Send over this stream from now on, first what has waited."""
        self.detach()
        self._stream = stream
        self.watch.reset()
        self._read()
        self._send_backlog()

    def detach(self) -> None:
        """Send over no stream; what comes is kept, as far as it is new."""
        if self._stream is None:
            return
        if self._held:
            self._engine.loop.remove_writer(self._stream.descriptor)
            self._held = bytearray()
        self._stream = None
        self._read()

    def offer(self, datagram: bytes) -> None:
        """Take a datagram that came by another socket."""
        if len(datagram) == INITIATION_SIZE and datagram[0] == INITIATION:
            self.watch.initiation(time.monotonic())
        if self._stream is None or self._held:
            self._backlog.add(frame(datagram), 1)
        else:
            self._put(frame(datagram), 1)

    def queued(self) -> int:
        """Bytes that wait in this process."""
        return len(self._held) + self._backlog.size

    def close(self) -> None:
        """Stop; the socket is its owner's."""
        self.detach()
        self._engine.loop.remove_reader(self._descriptor)
        self._backlog.take()

    def _read(self) -> None:
        """Read the socket in the way that befits the state."""
        if self._stream is None:
            handler = self._on_waiting
        elif not self._engine.offload.mmsg:
            handler = self._on_drained
        else:
            handler = self._on_bulk if self._bulk else self._on_lone
        self._engine.loop.add_reader(self._descriptor, handler)

    # -- gears ----------------------------------------------------------------------------------------

    def _on_lone(self) -> None:
        try:
            size = self._udp.recv_into(self._room)
        except OSError:
            return  # nothing there after all, or an earlier datagram's ICMP error, which is now cleared
        data = self._data
        data[0], data[1] = size >> 8, size & 255
        if size == INITIATION_SIZE and data[HEADER] == INITIATION:
            self.watch.initiation(time.monotonic())
        self._put(self._view[: size + HEADER], 1)
        self._count += 1
        if self._count >= SHIFT_UP[0]:
            now = time.monotonic()
            if now - self._since < SHIFT_UP[1]:
                self._shift(bulk=True)
            self._since, self._count = now, 0

    def _on_bulk(self) -> None:
        inbox = self._engine.inbox
        received = inbox.receive(self._descriptor, self._slots)
        if received <= 0:
            return
        if received == 1 and (size := inbox.lone()) >= 0:
            inbox.renew(1)
            self._slots = SLOTS
            self._alone(size)
        elif inbox.coalesced(received):
            self._slots = COALESCED_SLOTS
            self._take_coalesced(received)
        else:
            self._slots = SLOTS
            self._take_many(received)

    def _alone(self, size: int) -> None:
        """A lone datagram in bulk gear; enough of them, slowly, and it is the wrong gear."""
        self._data[0], self._data[1] = size >> 8, size & 255
        if size == INITIATION_SIZE and self._data[HEADER] == INITIATION:
            self.watch.initiation(time.monotonic())
        self._put(self._view[: size + HEADER], 1)
        self._count += 1
        if self._count >= SHIFT_DOWN[0]:
            now = time.monotonic()
            if now - self._since > SHIFT_DOWN[1]:
                self._shift(bulk=False)
            self._since, self._count = now, 0

    def _take_many(self, received: int) -> None:
        inbox = self._engine.inbox
        sizes = inbox.sizes(received)
        if not self.watch.heard or INITIATION_SIZE in sizes:
            self._look_for_initiation(sizes)
        if self._stream is not None and self._stream.plain:
            message, buffers, total = inbox.frames(received)
            inbox.renew(received)
            self._count_up(received, total - received * HEADER)
            self._put_message(message, buffers, total)
        else:
            frames = b"".join([inbox.contiguous(slot, size, size) for slot, size in enumerate(sizes)])
            inbox.renew(received)
            self._put(frames, received)

    def _take_coalesced(self, received: int) -> None:
        inbox = self._engine.inbox
        parts = [(size, *inbox.segments(slot, size)) for slot, size in enumerate(inbox.sizes(received))]
        count = sum(datagrams for _, datagrams, _ in parts)
        if self._stream is None or not self._stream.plain:
            chunks = [inbox.contiguous(slot, size, each) for slot, (size, _, each) in enumerate(parts)]
            inbox.renew(received)
            self._put(b"".join(chunks), count)
            return
        self._count_up(count, sum(size for size, _, _ in parts))
        used = total = 0
        for slot, (size, datagrams, each) in enumerate(parts):
            if used + 2 * datagrams > vectors.MOST:
                self._put_message(inbox.message, used, total)
                used = total = 0
            used = inbox.lay_out(slot, size, each, used)
            total += size + HEADER * datagrams
        inbox.renew(received)
        self._put_message(inbox.message, used, total)

    def _on_drained(self) -> None:
        """Without recvmmsg: all that is there, one by one, and out in one piece."""
        frames, datagrams = [], 0
        for _ in range(DRAINED):
            try:
                size = self._udp.recv_into(self._room)
            except OSError:
                break
            if size == INITIATION_SIZE and self._data[HEADER] == INITIATION:
                self.watch.initiation(time.monotonic())
            frames += [size.to_bytes(HEADER, "big"), bytes(self._room[:size])]
            datagrams += 1
        if datagrams:
            self._put(b"".join(frames), datagrams)

    def _shift(self, *, bulk: bool) -> None:
        """Change the gear; down only over an empty queue."""
        if not bulk:
            self._coalesce(on=False)
            queued = array.array("i", [0])
            fcntl.ioctl(self._descriptor, termios.FIONREAD, queued)
            bulk = bool(queued[0])
        if bulk:
            self._coalesce(on=True)
        self._bulk = bulk
        self._read()

    def _coalesce(self, *, on: bool) -> None:
        if self._engine.offload.gro:
            self._udp.setsockopt(SOL_UDP, UDP_GRO, on)

    def _look_for_initiation(self, sizes: list[int]) -> None:
        """A batch is looked through only where it may matter."""
        for slot, size in enumerate(sizes):
            if size == INITIATION_SIZE and self._engine.inbox.first_byte(slot) == INITIATION:
                self.watch.initiation(time.monotonic())
                return

    # -- out ------------------------------------------------------------------------------------------

    def _count_up(self, datagrams: int, size: int) -> None:
        counters = self._counters
        counters.datagrams_up += datagrams
        counters.bytes_up += size
        counters.batches_up += 1
        self.sent = True

    def _put(self, frames: Buffer, datagrams: int) -> None:
        """Send contiguous frames, and hold what does not go."""
        if self._held:
            return self._drop(datagrams)
        self._count_up(datagrams, len(frames) - HEADER * datagrams)
        if self._stream is None:
            return None
        try:
            sent = self._stream.send(frames)
        except OSError as error:
            return self._failed(str(error))
        if sent < len(frames):
            self._hold(bytearray(frames[sent:]))
        return None

    def _put_message(self, message: Message, buffers: int, total: int) -> None:
        """Send frames as a message of many buffers, and hold what does not go."""
        if self._stream is None or self._held:
            return self._drop(buffers // 2)  # this batch's first part has filled the stream, or ended it
        sent = message.send(self._stream.descriptor, buffers, _DONT_WAIT)
        if sent == total:
            return None
        if sent < 0:
            number = vectors.errno()
            if number != errno.EAGAIN:
                return self._failed(os.strerror(number))
            sent = 0
        rest, dropped = message.after(buffers, sent, HELD)
        self._drop(dropped)
        self._hold(rest)
        return None

    def _hold(self, rest: bytearray) -> None:
        """Wait until the stream takes more, and let the socket's buffer fill meanwhile."""
        assert self._stream is not None
        self._held, self._blocked = rest, time.monotonic()
        self._engine.loop.remove_reader(self._descriptor)
        self._engine.loop.add_writer(self._stream.descriptor, self._flush)

    def _flush(self) -> None:
        assert self._stream is not None
        try:
            sent = self._stream.send(self._held)
        except OSError as error:
            return self._failed(str(error))
        del self._held[:sent]
        if self._held:
            return None
        self._engine.loop.remove_writer(self._stream.descriptor)
        self._read()
        if time.monotonic() - self._blocked > STALE:
            while self._keep():
                pass
            self._send_backlog()
        return None

    def _drop(self, datagrams: int) -> None:
        self._counters.drops[Drop.QUEUE] += datagrams

    # -- without a stream -----------------------------------------------------------------------------

    def _on_waiting(self) -> None:
        self._keep()

    def _keep(self) -> bool:
        """Read what is there, once, and keep the newest of it; returns whether there was anything."""
        if not self._bulk:
            try:
                size = self._udp.recv_into(self._room)
            except OSError:
                return False
            self._backlog.add(size.to_bytes(HEADER, "big") + self._room[:size], 1)
            return True
        inbox = self._engine.inbox
        received = inbox.receive(self._descriptor, COALESCED_SLOTS)
        if received <= 0:
            return False
        for slot, size in enumerate(inbox.sizes(received)):
            datagrams, each = inbox.segments(slot, size)
            self._backlog.add(inbox.contiguous(slot, size, each), datagrams)
        inbox.renew(received)
        return True

    def _send_backlog(self) -> None:
        frames, datagrams = self._backlog.take()
        if frames:
            self._put(frames, datagrams)
