"""Connecting to an upstream: resolve, race the addresses, pass the proxy, agree on TLS.

A name is resolved anew each time. Every socket has its options, and its mark, before it connects.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final
from urllib.parse import urlsplit

import aiohappyeyeballs

from dstack_vpn.adapters.relay import sockets, tls
from dstack_vpn.adapters.relay.stream import PlainStream, Stream
from dstack_vpn.core.model import SocketAddress, check_reachable
from dstack_vpn.core.upstream import Upstream
from dstack_vpn.errors import FormatError, RelayError

STAGGER: Final = 0.25
"""Seconds between the starts of attempts to several addresses (RFC 8305, 5)."""


@dataclass(frozen=True, slots=True)
class Dialled:
    """A connection to an upstream."""

    stream: Stream
    connection: socket.socket
    address: SocketAddress
    """Where it leads: the upstream's address, or the proxy's."""
    took: float
    """Seconds."""

    @property
    def tls_version(self) -> str | None:
        """Such as ``TLSv1.3``; None without TLS."""
        return self.stream.tls_version

    def rtt(self) -> float | None:
        """The round trip in seconds, as TCP has measured it."""
        return sockets.rtt(self.connection)


async def dial(
    upstream: Upstream, *, mark: int | None = None, timeout: float = 5.0, foreign: bool = False
) -> Dialled:
    """Connect within ``timeout`` seconds; raises `RelayError`.

    With ``foreign`` the upstream is somebody else's word, and a name that resolves to this machine, or to an
    address that can't be another's, is refused.
    """
    loop = asyncio.get_running_loop()
    began = loop.time()
    try:
        async with asyncio.timeout(timeout):
            connection = await _connect(upstream, mark, foreign=foreign)
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


async def _connect(upstream: Upstream, mark: int | None, *, foreign: bool) -> socket.socket:
    """TCP to the upstream, through its proxy if it has one; raises `OSError`, `RelayError`."""
    if upstream.via is None:
        return await _tcp(upstream.host, upstream.port, upstream.name, mark, foreign=foreign)
    from python_socks import ProxyError
    from python_socks.async_.asyncio import Proxy

    where = urlsplit(upstream.via)
    name = f"{where.scheme}://{where.hostname}:{where.port}"
    # The library connects to the proxy through what it takes for another proxy: so it gets our socket.
    proxy = Proxy.from_url(upstream.via, forward=_Direct(f"{upstream.name}: via: {name}", mark))
    try:
        return await proxy.connect(upstream.host, upstream.port)
    except ProxyError as error:
        raise RelayError(f"{upstream.name}: via: the proxy {name} refused: {error}") from error
    except ValueError as error:  # a name in its reply that is no text, or a password that it can't be told
        raise RelayError(f"{upstream.name}: via: the proxy {name} can't be spoken to: {error}") from error


class _Direct:
    """Connects to the proxy itself."""

    def __init__(self, name: str, mark: int | None) -> None:
        self._name, self._mark = name, mark

    async def connect(self, dest_host: str, dest_port: int, timeout: float | None = None) -> socket.socket:
        """As python-socks calls it; the deadline is ours."""
        del timeout
        try:
            return await _tcp(dest_host, dest_port, self._name, self._mark, foreign=False)
        except OSError as error:
            raise RelayError(f"{self._name}: {error.strerror or error}") from error


async def _tcp(host: str, port: int, name: str, mark: int | None, *, foreign: bool) -> socket.socket:
    """Resolve, and connect to the first address that answers; raises `OSError`, `RelayError`."""
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    except OSError as error:
        raise RelayError(f"{name}: can't resolve {host}: {error.strerror}") from error
    usable = [info for info in found if not foreign or _elsewhere(info[4][0])]
    if not usable:
        raise RelayError(f"{name}: {host} leads to no address of another machine")
    connection = await aiohappyeyeballs.start_connection(
        usable, happy_eyeballs_delay=STAGGER, socket_factory=partial(_socket, mark)
    )
    connection.setblocking(False)
    return connection


def _socket(mark: int | None, info: Sequence[Any]) -> socket.socket:
    """A socket with its options, as aiohappyeyeballs asks for it."""
    made = socket.socket(info[0], info[1], info[2])
    try:
        sockets.tune(made, mark=mark)
    except BaseException:
        made.close()
        raise
    return made


def _elsewhere(text: object) -> bool:
    try:
        address = ipaddress.ip_address(str(text).partition("%")[0])
        check_reachable(address)
    except FormatError:
        return False
    return not address.is_link_local
