"""Receives many datagrams in one call, laid out as frames for one call on the TCP socket.

Datagrams are received into slots. With UDP_GRO, a slot may hold up to 64 KiB of datagrams of equal
size (the last may be shorter), and the kernel reports that size. A frame consists of two buffers, a
length and a datagram, which are never copied together.
"""

import struct
from typing import Final

from dstack_vpn.adapters.relay.vectors import (
    CONTROL_LENGTH,
    IOVEC,
    MESSAGE_LENGTH,
    MMSGHDR,
    MOST,
    Memory,
    Message,
    recvmmsg,
)
from dstack_vpn.core.wireguard.framing import HEADER

SLOTS: Final = 64
"""The maximum number of datagrams received at once."""
COALESCED_SLOTS: Final = 4
"""The same for coalesced messages, of up to 64 KiB each."""
STRIDE: Final = 65536 + 1600
"""Bytes from slot to slot. With a power of two, all slots would share a few of the cache's sets."""
_CONTROL: Final = 32
"""Bytes for a slot's control message: a header of 16, an int, and padding."""
_MSG_DONTWAIT: Final = 0x40
_PAIR: Final = 2 * IOVEC
_TEMPLATES: Final = 256
"""The number of cached templates, of up to 16 KiB each."""


class Inbox:
    """The slots, and the message built from their frames; one per event loop."""

    def __init__(self) -> None:
        self.slots = Memory(SLOTS * STRIDE)
        self.message = Message()
        self._control = Memory(SLOTS * _CONTROL)
        self._segment = self._control.view.cast("I")
        self._received = Memory(SLOTS * IOVEC)
        self._headers = Memory(SLOTS * MMSGHDR)
        self._lengths = self._headers.view.cast("I")
        self._prefixes = Memory(SLOTS * HEADER)
        self._plain = Message()
        self._templates: dict[tuple[int, int], bytes] = {}
        self._sizes = Memory(HEADER << 16)
        """Every length as encoded on the wire, in order."""
        self._sizes.data[:] = struct.pack(">65536H", *range(1 << 16))
        for slot in range(SLOTS):
            self._prepare(slot)
        self._fresh = bytes(self._headers.data)

    def _prepare(self, slot: int) -> None:
        base = self.slots.address + slot * STRIDE + HEADER
        struct.pack_into("2Q", self._received.data, slot * IOVEC, base, 65536)
        where = self._received.address + slot * IOVEC, self._control.address + slot * _CONTROL
        fields = (0, 0, where[0], 1, where[1], _CONTROL, 0, 0, 0)
        struct.pack_into("7Q2I", self._headers.data, slot * MMSGHDR, *fields)
        prefix = self._prefixes.address + slot * HEADER
        struct.pack_into("4Q", self._plain.buffers.data, slot * _PAIR, prefix, HEADER, base, 0)

    def receive(self, descriptor: int, count: int) -> int:
        """Receive up to ``count`` messages; return their number, 0 or less if none arrived."""
        assert recvmmsg is not None
        received: int = recvmmsg(descriptor, self._headers.address, count, _MSG_DONTWAIT, None)
        return received

    def renew(self, received: int) -> None:
        """Reset the headers of the received messages for the next call."""
        end = received * MMSGHDR
        self._headers.view[:end] = self._fresh[:end]

    def single(self) -> int:
        """Return the size of the first message's datagram, or -1 if it holds several."""
        return -1 if self._headers.data[CONTROL_LENGTH] else self._lengths[MESSAGE_LENGTH // 4]

    def first_byte(self, slot: int) -> int:
        """Return the first byte of a message."""
        return self.slots.data[slot * STRIDE + HEADER]

    def coalesced(self, received: int) -> bool:
        """Return True if any message holds several coalesced datagrams."""
        return any(self._headers.view[CONTROL_LENGTH : received * MMSGHDR : MMSGHDR])

    def sizes(self, received: int) -> list[int]:
        """Return the messages' sizes in bytes."""
        return self._lengths[MESSAGE_LENGTH // 4 : received * MMSGHDR // 4 : MMSGHDR // 4].tolist()

    def frames(self, received: int) -> tuple[Message, int, int]:
        """Return uncoalesced datagrams as a message, with its number of buffers and of bytes."""
        end = received * MMSGHDR
        low = self._headers.view[MESSAGE_LENGTH:end:MMSGHDR]
        high = self._headers.view[MESSAGE_LENGTH + 1 : end : MMSGHDR]
        prefixes, buffers = self._prefixes.view, self._plain.bytes
        prefixes[0 : HEADER * received : 2], prefixes[1 : HEADER * received : 2] = high, low
        # A datagram's length is the fourth word of its pair of buffers.
        buffers[24 : _PAIR * received : _PAIR], buffers[25 : _PAIR * received : _PAIR] = low, high
        return self._plain, 2 * received, sum(self.sizes(received)) + HEADER * received

    def segments(self, slot: int, size: int) -> tuple[int, int]:
        """Return the number of datagrams in a message of ``size`` bytes, and the size of each.

        The last may be shorter.
        """
        if not self._headers.data[slot * MMSGHDR + CONTROL_LENGTH]:
            return 1, size
        segment = self._segment[slot * _CONTROL // 4 + 4]
        return (-(-size // segment), segment) if 0 < segment < size else (1, size)

    def lay_out(self, slot: int, size: int, segment: int, used: int) -> int:
        """Add a message's frames after the first ``used`` buffers; return the new number."""
        count, rest = divmod(size, segment) if segment else (0, 0)
        at, base = used * IOVEC, self.slots.address + slot * STRIDE + HEADER
        if count:
            self.message.bytes[at : at + count * _PAIR] = self._template(slot, segment)[: count * _PAIR]
        if rest or not size:
            # The last datagram has a different length.
            self._prefixes.data[slot * 2], self._prefixes.data[slot * 2 + 1] = rest >> 8, rest & 255
            prefix = self._prefixes.address + slot * HEADER
            struct.pack_into(
                "4Q",
                self.message.buffers.data,
                at + count * _PAIR,
                prefix,
                HEADER,
                base + count * segment,
                rest,
            )
            count += 1
        return used + 2 * count

    def contiguous(self, slot: int, size: int, segment: int) -> bytes:
        """Return a message's frames as bytes, for streams that take no vectors."""
        view, base = self.slots.view, slot * STRIDE + HEADER
        count, rest = divmod(size, segment) if segment else (0, 0)
        length = segment.to_bytes(HEADER, "big")
        ends = range(base, base + count * segment, segment) if count else ()
        whole = length + length.join([view[at : at + segment] for at in ends]) if count else b""
        if not rest and size:
            return whole
        return whole + rest.to_bytes(HEADER, "big") + view[base + count * segment : base + size]

    def _template(self, slot: int, segment: int) -> bytes:
        """Return the pairs of buffers for as many segments as a slot can hold, from a cache."""
        key = (slot, segment)
        if key not in self._templates:
            if len(self._templates) >= _TEMPLATES:
                self._templates.clear()
            prefix = self._sizes.address + HEADER * segment
            base = self.slots.address + slot * STRIDE + HEADER
            words: list[int] = []
            for index in range(min(65535 // segment, MOST // 2)):
                words += (prefix, HEADER, base + index * segment, segment)
            self._templates[key] = struct.pack(f"{len(words)}Q", *words)
        return self._templates[key]
