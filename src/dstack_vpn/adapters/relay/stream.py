"""The byte stream between two relays: plain TCP here, TLS in `tls`.

Both are driven by readiness and never block. The fast paths use a plain stream's descriptor to pass
vectors of buffers to the kernel.
"""

import socket
from typing import Protocol, TypeAlias

Buffer: TypeAlias = bytes | bytearray | memoryview


class Stream(Protocol):
    """A connected, non-blocking stream."""

    descriptor: int
    """The file descriptor to wait on."""
    plain: bool
    """True if bytes pass the descriptor unchanged, so that sendmsg(2) on it equals `send`."""
    tls_version: str | None
    """The TLS version, such as ``TLSv1.3``; None without TLS."""

    def send(self, data: Buffer) -> int:
        """Send as much as possible; return the number of bytes, 0 if it would block.

        Pass unsent bytes again unchanged; more may follow them. Raises `OSError`.
        """

    def recv_into(self, buffer: memoryview) -> int | None:
        """Fill a buffer; return the number of bytes, 0 at the end of the stream.

        Returns None if it would block. Raises `OSError`.
        """

    def pending(self) -> bool:
        """Return True if bytes wait in this process, which the descriptor does not show."""

    def close(self) -> None:
        """Close immediately."""


class PlainStream:
    """A `Stream` over a TCP connection."""

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
        """Return False: no bytes wait in this process."""
        return False

    def close(self) -> None:
        """See `Stream.close`."""
        self.connection.close()
