"""A tunnel through an HTTP proxy: the CONNECT request, and the reply's head (RFC 9110, 9.3.6).

Bytes after the head belong to the tunnel. The socket is therefore peeked first (MSG_PEEK), and only
the head is taken from it.
"""

import asyncio
import re
import socket
from base64 import b64encode
from typing import Final
from urllib.parse import SplitResult, unquote_to_bytes

from dstack_vpn.errors import FormatError, RelayError

LONGEST_HEAD: Final = 128 << 10
"""The maximum size of the reply in bytes, interim replies included."""
_AT_ONCE: Final = 1 << 16
_END: Final = re.compile(rb"\r?\n\r?\n")
_OVERLAP: Final = 3
"""Bytes of the end marker that may have arrived with an earlier segment."""
_STATUS: Final = re.compile(rb"HTTP/1\.[0-9] ([1-9][0-9]{2})(?: ([^\r\n]{0,200}))?")
_SWITCHING: Final = 101


async def open_tunnel(connection: socket.socket, host: str, port: int, proxy: SplitResult) -> None:
    """Request a connection to a host from an HTTP proxy.

    ``connection`` leads to the proxy and is non-blocking. Raises `OSError`, and `RelayError` with
    the proxy's reason.
    """
    await asyncio.get_running_loop().sock_sendall(connection, _request(host, port, proxy))
    size = 0
    while True:
        head = await _head(connection, LONGEST_HEAD - size)
        size += len(head)
        try:
            status, reason = parse_status(head)
        except FormatError as error:
            raise RelayError(f"can't be used: {error}") from error
        if 200 <= status < 300:
            return
        if not 100 <= status < 200 or status == _SWITCHING:
            raise RelayError(f"refused: {status} {reason}".rstrip())


def parse_status(head: bytes) -> tuple[int, str]:
    """Return the status and the reason of a reply; raises `FormatError`."""
    match = _STATUS.match(head)
    if match is None:
        raise FormatError("its reply is not HTTP/1.x")
    reason = (match[2] or b"").decode("ascii", "replace")
    return int(match[1]), "".join(c if c.isprintable() else "?" for c in reason)


def _request(host: str, port: int, proxy: SplitResult) -> bytes:
    authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    lines = [f"CONNECT {authority} HTTP/1.1", f"Host: {authority}"]
    if proxy.username is not None:
        user = unquote_to_bytes(proxy.username)
        if b":" in user:  # RFC 7617, 2
            raise RelayError("can't be used: the proxy's user name must not contain a colon")
        secret = user + b":" + unquote_to_bytes(proxy.password or "")
        lines.append(f"Proxy-Authorization: Basic {b64encode(secret).decode()}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")


async def _head(connection: socket.socket, limit: int) -> bytes:
    """Take one head from the socket, and no byte after it."""
    head = b""
    while True:
        seen = await _peek(connection)
        if not seen:
            raise RelayError("closed the connection")
        end = _END.search(head + seen, max(len(head) - _OVERLAP, 0))
        size = len(seen) if end is None else end.end() - len(head)
        head += connection.recv(size)
        if end is not None and len(head) >= end.end():
            return head
        if len(head) > limit:
            raise RelayError(f"can't be used: its reply has no end within {LONGEST_HEAD >> 10} KiB")


async def _peek(connection: socket.socket) -> bytes:
    """Wait for bytes and return them without taking them; empty at the end of the stream."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            return connection.recv(_AT_ONCE, socket.MSG_PEEK)
        except BlockingIOError:
            readable = loop.create_future()
            loop.add_reader(connection.fileno(), _set, readable)
            try:
                await readable
            finally:
                loop.remove_reader(connection.fileno())


def _set(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)
