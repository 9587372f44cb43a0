"""Connections to an upstream: name resolution, a race of the addresses, the proxy, and TLS.

A name is resolved for each attempt, with a separate deadline (`lookup`). Every socket has its
options and its mark before it connects.
"""

import asyncio
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

import aiohappyeyeballs

from dstack_vpn.adapters.relay import sockets, tls
from dstack_vpn.adapters.relay.connect import open_tunnel
from dstack_vpn.adapters.relay.lookup import Found, NameCache, Share
from dstack_vpn.adapters.relay.stream import PlainStream, Stream
from dstack_vpn.core.model import SocketAddress
from dstack_vpn.core.paths.destination import ANYWHERE, Destinations
from dstack_vpn.core.paths.relay_url import RelayUrl
from dstack_vpn.errors import RelayError

STAGGER: Final = 0.25
"""Seconds between the starts of attempts to several addresses (RFC 8305, 5)."""


@dataclass(frozen=True, slots=True)
class Dialled:
    """A connection to an upstream."""

    stream: Stream
    connection: socket.socket
    address: SocketAddress
    """The destination: the relay's address, or the proxy's."""
    took: float
    """Seconds."""

    @property
    def tls_version(self) -> str | None:
        """The TLS version, such as ``TLSv1.3``; None without TLS."""
        return self.stream.tls_version

    def rtt(self) -> float | None:
        """Return the round-trip time in seconds, as TCP has measured it."""
        return sockets.rtt(self.connection)


async def dial(
    upstream: RelayUrl,
    names: NameCache | None = None,
    *,
    mark: int | None = None,
    timeout: float = 5.0,
    destinations: Destinations = ANYWHERE,
    share: Share | None = None,
) -> Dialled:
    """Connect within ``timeout`` seconds after the name is resolved; raises `RelayError`.

    ``destinations`` restricts the addresses: another member may have chosen the upstream, and its
    name must not lead to this machine or into the tunnel. ``share`` bounds the concurrent lookups.
    """
    loop = asyncio.get_running_loop()
    began = loop.time()
    addresses = await _resolved(upstream, names or NameCache(), destinations, share)
    try:
        async with asyncio.timeout(timeout):
            connection = await _connect(upstream, addresses, mark)
            address = SocketAddress(*connection.getpeername()[:2])
            stream: Stream = PlainStream(connection)
            if upstream.tls:
                connection.setblocking(False)
                secured = await tls.connect(connection, upstream, timeout)
                stream, connection = secured, secured.connection
    except TimeoutError as error:
        raise RelayError(f"{upstream.name}: no connection within {timeout:.0f} s") from error
    except OSError as error:
        raise RelayError(f"{upstream.name}: {error.strerror or error}") from error
    return Dialled(stream, connection, address, loop.time() - began)


async def _resolved(
    upstream: RelayUrl, names: NameCache, destinations: Destinations, share: Share | None
) -> Found:
    """Return the upstream's addresses, or its proxy's if it has one; raises `RelayError`."""
    name, host, port = upstream.name, upstream.host, upstream.port
    if upstream.via is not None:
        proxy = urlsplit(upstream.via)
        name, host, port = f"{name}: via: {_shown(proxy)}", proxy.hostname or "", proxy.port or 0
    try:
        found = await names.find(host, port, share=share)
    except RelayError as error:
        raise RelayError(f"{name}: {error}") from error
    usable = [info for info in found if destinations.refusal(str(info[4][0])) is None]
    if not usable:
        raise RelayError(f"{name}: {host} leads to no address of another machine")
    return usable


async def _connect(upstream: RelayUrl, addresses: Found, mark: int | None) -> socket.socket:
    """Connect by TCP, through the upstream's proxy if any; raises `OSError`, `RelayError`."""
    if upstream.via is None:
        return await _tcp(addresses, mark)
    proxy = urlsplit(upstream.via)
    try:
        connection = await _tcp(addresses, mark)
    except OSError as error:
        raise RelayError(f"{upstream.name}: via: {_shown(proxy)}: {error.strerror or error}") from error
    through = _by_socks if proxy.scheme == "socks5" else open_tunnel
    try:
        await through(connection, upstream.host, upstream.port, proxy)
    except (RelayError, OSError) as error:
        connection.close()
        reason = error if isinstance(error, RelayError) else f"failed: {error.strerror or error}"
        raise RelayError(f"{upstream.name}: via: the proxy {_shown(proxy)} {reason}") from error
    except BaseException:
        connection.close()
        raise
    return connection


def _shown(proxy: SplitResult) -> str:
    """Return a proxy's URL without its password."""
    return f"{proxy.scheme}://{proxy.hostname}:{proxy.port}"


async def _by_socks(connection: socket.socket, host: str, port: int, proxy: SplitResult) -> None:
    """Connect to a host through a SOCKS5 proxy; raises `RelayError`."""
    from python_socks import ProxyError
    from python_socks.async_.asyncio import Proxy

    # The library connects to the proxy through ``forward``, another proxy: that returns our socket.
    wrapped = Proxy.from_url(proxy.geturl(), forward=_There(connection))
    try:
        await wrapped.connect(host, port)
    except ProxyError as error:
        raise RelayError(f"refused: {error}") from error
    except ValueError as error:  # an undecodable name in its reply, or an unsupported password
        raise RelayError(f"can't be used: {error}") from error


class _There:
    """A forward proxy for python-socks that returns the existing connection."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    async def connect(self, dest_host: str, dest_port: int, timeout: float | None = None) -> socket.socket:
        """Return the connection; the signature is that of python-socks."""
        del dest_host, dest_port, timeout
        return self._connection


async def _tcp(addresses: Found, mark: int | None) -> socket.socket:
    """Connect to the first address that answers; raises `OSError`, `RelayError`."""
    connection = await aiohappyeyeballs.start_connection(
        addresses, happy_eyeballs_delay=STAGGER, socket_factory=partial(_socket, mark)
    )
    connection.setblocking(False)
    return connection


def _socket(mark: int | None, info: Sequence[Any]) -> socket.socket:
    """Make a socket with its options, as aiohappyeyeballs' socket factory."""
    made = socket.socket(info[0], info[1], info[2])
    try:
        sockets.tune(made, mark=mark)
    except BaseException:
        made.close()
        raise
    return made
