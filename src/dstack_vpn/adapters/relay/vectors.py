"""The kernel's structures for many buffers, in memory that is allocated once and reused.

The layout is that of sys/socket.h on little-endian machines with 64 bits:

    struct iovec    16 bytes   base, length
    struct msghdr   56 bytes   name, name length, iovec, iovec count, control, control length, flags
    struct mmsghdr  64 bytes   msghdr, length of the message

No Python code runs for a single datagram: lengths are copied between arrays as strided slices, and
fields that seldom change are copied from a template.
"""

import ctypes
import struct
from typing import Final

IOVEC: Final = 16
MMSGHDR: Final = 64
MOST: Final = 1024
"""UIO_MAXIOV (linux/uio.h): the limit of buffers in a vector, and of messages in a call."""

CONTROL_LENGTH: Final = 40
"""Offset of ``msg_controllen`` in a message's header."""
MESSAGE_LENGTH: Final = 56
"""Offset of ``msg_len`` in a `MMSGHDR`."""

# PyDLL keeps the interpreter's lock. These calls never block; releasing it costs more than a call.
_libc: Final = ctypes.PyDLL(None, use_errno=True)
_POINTER, _INT, _UNSIGNED = ctypes.c_void_p, ctypes.c_int, ctypes.c_uint

recvmmsg = getattr(_libc, "recvmmsg", None)
sendmmsg = getattr(_libc, "sendmmsg", None)
sendmsg = _libc.sendmsg
sendmsg.argtypes, sendmsg.restype = [_INT, _POINTER, _INT], ctypes.c_ssize_t
if recvmmsg is not None and sendmmsg is not None:
    recvmmsg.argtypes, recvmmsg.restype = [_INT, _POINTER, _UNSIGNED, _INT, _POINTER], _INT
    sendmmsg.argtypes, sendmmsg.restype = [_INT, _POINTER, _UNSIGNED, _INT], _INT
errno = ctypes.get_errno


class Memory:
    """Bytes at a fixed address, which can be passed to the kernel."""

    __slots__ = ("address", "data", "view")

    def __init__(self, size: int) -> None:
        self.data = bytearray(size)
        self.view = memoryview(self.data)
        self.address = ctypes.addressof((ctypes.c_char * size).from_buffer(self.data))


class Message:
    """A message of many buffers for sendmsg(2): a header and an array of iovecs."""

    __slots__ = ("_count", "_header", "address", "buffers", "bytes", "words")

    def __init__(self, control: Memory | None = None) -> None:
        self.buffers = Memory(MOST * IOVEC)
        self.bytes = self.buffers.view
        self.words = self.buffers.view.cast("Q")
        self._header = Memory(56)
        where, length = (control.address, len(control.data)) if control else (0, 0)
        struct.pack_into("7Q", self._header.data, 0, 0, 0, self.buffers.address, 0, where, length, 0)
        self._count = self._header.view.cast("Q")
        self.address = self._header.address

    def send(self, descriptor: int, count: int, flags: int) -> int:
        """Send the first ``count`` buffers; return the number of bytes, or -1 with `errno`."""
        self._count[3] = count
        sent: int = sendmsg(descriptor, self.address, flags)
        return sent

    def after(self, count: int, skip: int, limit: int) -> tuple[bytearray, int]:
        """Return the first ``count`` buffers, which form pairs, without the first ``skip`` bytes.

        Beyond ``limit`` bytes, whole pairs are left out; their number is the second value.
        """
        rest = bytearray()
        for index in range(count):
            if not index % 2 and len(rest) > limit:
                return rest, (count - index) // 2
            base, length = self.words[2 * index], self.words[2 * index + 1]
            if skip < length:
                rest += ctypes.string_at(base + skip, length - skip)
            skip = max(skip - length, 0)
        return rest, 0
