"""From a UDP socket to a stream, in single mode or batch mode.

Single mode: datagrams are rare, and each should leave immediately. One receive, one send; the
length is written ahead of the datagram in place; UDP_GRO is off. This has the fewest steps, which
matters with cold caches.

Batch mode: datagrams arrive faster than single mode can send them. One call receives many,
coalesced by UDP_GRO if they have one source, and they leave as one message of many buffers, without
work in Python for each datagram.

Batch mode begins at more than 2,000 datagrams a second. It ends when single datagrams arrive again,
and only with an empty queue: single mode would read a message coalesced by UDP_GRO as one long
datagram.

If the stream accepts no more (`sender`), reading stops: the socket's buffer keeps new datagrams,
and drops them when it is full.
"""

import array
import fcntl
import socket
import termios
import time
from collections.abc import Callable
from typing import Final

from dstack_vpn.adapters.relay import vectors
from dstack_vpn.adapters.relay.counters import Counters
from dstack_vpn.adapters.relay.engine import Engine
from dstack_vpn.adapters.relay.inbox import COALESCED_SLOTS, SLOTS
from dstack_vpn.adapters.relay.offload import SOL_UDP, UDP_GRO
from dstack_vpn.adapters.relay.sender import DatagramSource, Sender
from dstack_vpn.adapters.relay.stream import Stream
from dstack_vpn.core.wireguard.framing import HEADER, LONGEST_FRAME
from dstack_vpn.core.wireguard.wire import INITIATION, INITIATION_SIZE, Watch

SHIFT_UP: Final = (16, 0.008)
"""Number of datagrams, within this number of seconds."""
SHIFT_DOWN: Final = (32, 0.032)
"""Number of single datagrams, within at least this number of seconds."""
DRAINED: Final = 64
"""Datagrams read in one go without recvmmsg."""


class Uplink:
    """Sends the datagrams of one connected UDP socket over the attached stream."""

    def __init__(
        self, engine: Engine, udp: socket.socket, counters: Counters, failed: Callable[[str], None]
    ) -> None:
        self.watch = Watch()
        self._engine, self._udp = engine, udp
        self._descriptor = udp.fileno()
        self._mirror: Callable[[bytes], None] | None = None
        self._paused = False
        source = DatagramSource(self._pause, self._read, self._catch_up, failed)
        self._sender = Sender(engine, counters, source)
        self._slots, self._count, self._since = SLOTS, 0, time.monotonic()
        self._batch_mode = False
        self._data, self._view = engine.inbox.slots.data, engine.inbox.slots.view
        self._room = self._view[HEADER:LONGEST_FRAME]
        engine.widen(udp)
        self._read()

    # -- life --------------------------------------------------------------------------------------

    def attach(self, stream: Stream) -> None:
        """Send over this stream, waiting datagrams first."""
        self._sender.attach(stream)
        self.watch.reset()
        self._read()
        self._sender.send_backlog()

    def detach(self) -> None:
        """Stop sending over the stream, and keep recent datagrams."""
        if self._sender.stream is not None:
            self._sender.detach()
            self._read()

    def offer(self, datagram: bytes) -> None:
        """Accept a datagram received by another socket."""
        if len(datagram) == INITIATION_SIZE and datagram[0] == INITIATION:
            self.watch.initiation(time.monotonic())
        self._sender.offer(datagram)

    def mirror(self, see: Callable[[bytes], None] | None) -> None:
        """Pass copies of the sent frames to ``see``; None ends this."""
        self._mirror = see
        if not self._paused:
            self._read()

    def queued(self) -> int:
        """Return the number of bytes that wait in this process."""
        return self._sender.queued

    def take_sent(self) -> bool:
        """Return True if anything was sent since the last call."""
        sent, self._sender.sent = self._sender.sent, False
        return sent

    def close(self) -> None:
        """Stop reading; the owner closes the socket."""
        self.detach()
        self._pause()
        self._sender.backlog.take()

    def _pause(self) -> None:
        self._paused = True
        self._engine.loop.remove_reader(self._descriptor)

    def _read(self) -> None:
        """Read the socket in the current mode."""
        if self._sender.stream is None:
            handler = self._on_waiting
        elif self._mirror is not None:
            handler = self._on_mirrored
        elif not self._engine.offload.mmsg:
            handler = self._on_drained
        else:
            handler = self._on_batch if self._batch_mode else self._on_single
        self._paused = False
        self._engine.loop.add_reader(self._descriptor, handler)

    def look_again(self) -> None:
        """Register the reader again, after an empty read or an earlier datagram's ICMP error.

        libuv, and so uvloop, treats an error of the socket as its end and stops watching it.
        """
        self._engine.loop.call_soon(self._read_again)

    def _read_again(self) -> None:
        if not self._paused:
            self._engine.loop.remove_reader(self._descriptor)
            self._read()

    # -- modes -------------------------------------------------------------------------------------

    def _on_single(self) -> None:
        try:
            size = self._udp.recv_into(self._room)
        except OSError:
            self.look_again()
            return
        data = self._data
        data[0], data[1] = size >> 8, size & 255
        if size == INITIATION_SIZE and data[HEADER] == INITIATION:
            self.watch.initiation(time.monotonic())
        self._sender.put(self._view[: size + HEADER], 1)
        self._count += 1
        if self._count >= SHIFT_UP[0]:
            now = time.monotonic()
            if now - self._since < SHIFT_UP[1]:
                self._shift(batch=True)
            self._since, self._count = now, 0

    def _on_batch(self) -> None:
        inbox = self._engine.inbox
        received = inbox.receive(self._descriptor, self._slots)
        if received <= 0:
            self.look_again()
            return
        if received == 1 and (size := inbox.single()) >= 0:
            inbox.renew(1)
            self._slots = SLOTS
            self._single_in_batch(size)
        elif inbox.coalesced(received):
            self._slots = COALESCED_SLOTS
            self._take_coalesced(received)
        else:
            self._slots = SLOTS
            self._take_many(received)

    def _single_in_batch(self, size: int) -> None:
        """Count a single datagram in batch mode; enough of them, slowly, end batch mode."""
        self._data[0], self._data[1] = size >> 8, size & 255
        if size == INITIATION_SIZE and self._data[HEADER] == INITIATION:
            self.watch.initiation(time.monotonic())
        self._sender.put(self._view[: size + HEADER], 1)
        self._count += 1
        if self._count >= SHIFT_DOWN[0]:
            now = time.monotonic()
            if now - self._since > SHIFT_DOWN[1]:
                self._shift(batch=False)
            self._since, self._count = now, 0

    def _take_many(self, received: int) -> None:
        inbox = self._engine.inbox
        sizes = inbox.sizes(received)
        if not self.watch.received or INITIATION_SIZE in sizes:
            self._look_for_initiation(sizes)
        if self._sender.stream is not None and self._sender.stream.plain:
            message, buffers, total = inbox.frames(received)
            inbox.renew(received)
            self._sender.count(received, total - received * HEADER)
            self._sender.put_message(message, buffers, total)
        else:
            frames = b"".join([inbox.contiguous(slot, size, size) for slot, size in enumerate(sizes)])
            inbox.renew(received)
            self._sender.put(frames, received)

    def _take_coalesced(self, received: int) -> None:
        inbox = self._engine.inbox
        parts = [(size, *inbox.segments(slot, size)) for slot, size in enumerate(inbox.sizes(received))]
        count = sum(datagrams for _, datagrams, _ in parts)
        if self._sender.stream is None or not self._sender.stream.plain:
            chunks = [inbox.contiguous(slot, size, each) for slot, (size, _, each) in enumerate(parts)]
            inbox.renew(received)
            self._sender.put(b"".join(chunks), count)
            return
        self._sender.count(count, sum(size for size, _, _ in parts))
        used = total = 0
        for slot, (size, datagrams, each) in enumerate(parts):
            if used + 2 * datagrams > vectors.MOST:
                self._sender.put_message(inbox.message, used, total)
                used = total = 0
            used = inbox.lay_out(slot, size, each, used)
            total += size + HEADER * datagrams
        inbox.renew(received)
        self._sender.put_message(inbox.message, used, total)

    def _on_drained(self) -> None:
        """Read all datagrams one by one, and send them together; for systems without recvmmsg."""
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
        if not datagrams:
            self.look_again()
            return
        self._sender.put(b"".join(frames), datagrams)

    def _shift(self, *, batch: bool) -> None:
        """Change the mode; to single mode only with an empty queue."""
        if not batch:
            self._coalesce(on=False)
            queued = array.array("i", [0])
            fcntl.ioctl(self._descriptor, termios.FIONREAD, queued)
            batch = bool(queued[0])
        if batch:
            self._coalesce(on=True)
        self._batch_mode = batch
        self._read()

    def _coalesce(self, *, on: bool) -> None:
        if self._engine.offload.gro:
            self._udp.setsockopt(SOL_UDP, UDP_GRO, on)

    def _look_for_initiation(self, sizes: list[int]) -> None:
        """Search a batch for a handshake initiation, only if one may matter."""
        for slot, size in enumerate(sizes):
            if size == INITIATION_SIZE and self._engine.inbox.first_byte(slot) == INITIATION:
                self.watch.initiation(time.monotonic())
                return

    # -- slow paths --------------------------------------------------------------------------------

    def _on_waiting(self) -> None:
        """Keep the newest datagrams while there is no stream."""
        for frames, datagrams in self._take():
            self._sender.backlog.add(frames, datagrams)

    def _catch_up(self) -> None:
        """Keep the newest of the datagrams that have queued up while the stream was blocked."""
        while taken := self._take():
            for frames, datagrams in taken:
                self._sender.backlog.add(frames, datagrams)

    def _on_mirrored(self) -> None:
        """Pass copies to the probe, and send the datagrams in one piece, which drops none."""
        taken = self._take()
        for frames, _ in taken:
            if self._mirror is not None:
                self._mirror(frames)
        if taken:
            self._sender.put(b"".join([frames for frames, _ in taken]), sum(count for _, count in taken))

    def _take(self) -> list[tuple[bytes, int]]:
        """Read once in the current mode; return the frames and their number."""
        if not self._batch_mode:
            try:
                size = self._udp.recv_into(self._room)
            except OSError:
                self.look_again()
                return []
            return [(size.to_bytes(HEADER, "big") + self._room[:size], 1)]
        inbox = self._engine.inbox
        received = max(inbox.receive(self._descriptor, COALESCED_SLOTS), 0)
        if not received:
            self.look_again()
        taken = []
        for slot, size in enumerate(inbox.sizes(received)):
            datagrams, each = inbox.segments(slot, size)
            taken.append((bytes(inbox.contiguous(slot, size, each)), datagrams))
        inbox.renew(received)
        return taken
