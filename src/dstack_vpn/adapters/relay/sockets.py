"""Options of the relay's TCP connections, as far as the system supports them (tcp(7))."""

import errno
import socket
import struct
from contextlib import suppress
from typing import Final

from dstack_vpn.adapters.binding import refusal
from dstack_vpn.core.model import SocketAddress
from dstack_vpn.core.paths.relay_url import Listen
from dstack_vpn.errors import RelayError

UNSENT: Final = 128 << 10
"""Unsent bytes that TCP accepts: enough for full speed, few enough that datagrams stay recent."""
DEAD_AFTER: Final = 5000
"""Milliseconds for which sent data may stay unacknowledged."""
KEEPALIVE: Final = (60, 10, 3)
"""Idle seconds until the first probe, seconds between probes, and their number.

Gateways commonly close idle connections after ten minutes.
"""
_TCPI_RTT: Final = 68
"""Offset of ``tcpi_rtt`` (microseconds) in struct tcp_info (linux/tcp.h)."""
_OPTIONS: Final = (
    ("TCP_NODELAY", 1),
    ("TCP_NOTSENT_LOWAT", UNSENT),
    ("TCP_USER_TIMEOUT", DEAD_AFTER),
    ("TCP_KEEPIDLE", KEEPALIVE[0]),
    ("TCP_KEEPINTVL", KEEPALIVE[1]),
    ("TCP_KEEPCNT", KEEPALIVE[2]),
)


def tune(connection: socket.socket, *, mark: int | None = None) -> None:
    """Set all options, before or after connecting.

    Raises `RelayError` if the mark is not permitted.
    """
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _OPTIONS:
        number = getattr(socket, name, None)
        if number is not None:
            with suppress(OSError):
                connection.setsockopt(socket.IPPROTO_TCP, number, value)
    if mark is not None:
        set_mark(connection, mark)


def set_mark(connection: socket.socket, mark: int) -> None:
    """Set the firewall mark of the socket's packets; raises `RelayError` if not permitted."""
    try:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
    except (OSError, AttributeError) as error:
        if isinstance(error, OSError) and error.errno != errno.EPERM:
            raise
        raise RelayError(
            "FWMARK: marking connections needs Linux and the capability CAP_NET_ADMIN"
        ) from error


def rtt(connection: socket.socket) -> float | None:
    """Return TCP's smoothed round-trip time in seconds; None if the system does not report it."""
    try:
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCPI_RTT + 4)
        (microseconds,) = struct.unpack_from("I", info, _TCPI_RTT)
    except (OSError, AttributeError, struct.error):
        return None
    return microseconds / 1e6 if microseconds else None


def can_send(to: SocketAddress, mark: int | None = None) -> bool:
    """Return True if the system sends UDP to an address, with the mark.

    A missing route or a local firewall refuses immediately. The datagram is empty, which WireGuard
    ignores.
    """
    family = socket.AF_INET6 if ":" in to.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as udp:
        try:
            if mark is not None:
                udp.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
            udp.connect(to)
            udp.send(b"")
        except BlockingIOError:
            return True
        except OSError:
            return False
    return True


def listening(listen: Listen) -> socket.socket:
    """Return a listening TCP socket; raises `RelayError`."""
    family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
    try:
        listener = socket.create_server(
            (listen.host, listen.port),
            family=family,
            backlog=1024,
            dualstack_ipv6=listen.host == "::" and socket.has_dualstack_ipv6(),
        )
    except OSError as error:
        raise RelayError(f"can't listen on {listen.name}: {refusal(error, listen.port)}") from error
    listener.setblocking(False)
    return listener
