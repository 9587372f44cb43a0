"""The byte stream between two relays: plain TCP here, TLS in `tls`.

Both are driven by readiness and never block. The plain one gives its descriptor away, so that the fast paths
can hand the kernel whole vectors of buffers.
"""

import socket
from typing import Protocol, TypeAlias

Buffer: TypeAlias = bytes | bytearray | memoryview


class Stream(Protocol):
    """A connected, non-blocking stream."""

    descriptor: int
    """To wait on."""
    plain: bool
    """True if bytes pass the descriptor unchanged, so that sendmsg(2) on it equals `send`."""
    tls_version: str | None
    """Such as ``TLSv1.3``; None without."""

    def send(self, data: Buffer) -> int:
        """Take as much as goes; returns how many bytes, 0 if it would block. Raises `OSError`.

        What was not taken has to be offered again as it was, with more behind it or not.
        """

    def recv_into(self, buffer: memoryview) -> int | None:
        """Fill a buffer; returns how many bytes, 0 at the end of the stream, None if it would block.

        Raises `OSError`.
        """

    def pending(self) -> bool:
        """True if bytes wait in this process, which the descriptor does not show."""

    def close(self) -> None:
        """Close, at once."""


class PlainStream:
    """TCP."""

    plain = True
    tls_version: str | None = None

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self.connection, self.descriptor = connection, connection.fileno()

    def send(self, data: Buffer) -> int:
        """See `Stream.send`."""
        try:
            return self.connection.send(data)
        except BlockingIOError:
            return 0

    def recv_into(self, buffer: memoryview) -> int | None:
        """See `Stream.recv_into`."""
        try:
            return self.connection.recv_into(buffer)
        except BlockingIOError:
            return None

    def pending(self) -> bool:
        """TCP keeps nothing here."""
        return False

    def close(self) -> None:
        """See `Stream.close`."""
        self.connection.close()
