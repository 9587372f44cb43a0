"""Options of the relay's TCP connections, if the system has them (tcp(7))."""

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
"""Bytes that TCP takes ahead of what it has sent: enough for full speed, little enough to stay fresh."""
DEAD_AFTER: Final = 5000
"""Milliseconds for which what was sent may stay unacknowledged."""
KEEPALIVE: Final = (60, 10, 3)
"""Seconds of silence until a probe, seconds between probes, probes: beats a gateway's ten minutes."""
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
    """Set all options, before or after connecting; raises `RelayError` if the mark is not permitted."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _OPTIONS:
        number = getattr(socket, name, None)
        if number is not None:
            with suppress(OSError):
                connection.setsockopt(socket.IPPROTO_TCP, number, value)
    if mark is not None:
        set_mark(connection, mark)


def set_mark(connection: socket.socket, mark: int) -> None:
    """Mark what the socket sends; raises `RelayError` if that is not permitted."""
    try:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
    except (OSError, AttributeError) as error:
        if isinstance(error, OSError) and error.errno != errno.EPERM:
            raise
        raise RelayError(
            "FWMARK: marking connections needs Linux and the capability CAP_NET_ADMIN"
        ) from error


def rtt(connection: socket.socket) -> float | None:
    """The smoothed round trip in seconds, as TCP has measured it; None if the system doesn't say."""
    try:
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCPI_RTT + 4)
        (microseconds,) = struct.unpack_from("I", info, _TCPI_RTT)
    except (OSError, AttributeError, struct.error):
        return None
    return microseconds / 1e6 if microseconds else None


def can_send(to: SocketAddress) -> bool:
    """Return True if the system would send UDP there; a missing route or a local firewall refuses at once.

    The datagram is empty, which WireGuard ignores.
    """
    family = socket.AF_INET6 if ":" in to.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as udp:
        try:
            udp.connect(to)
            udp.send(b"")
        except BlockingIOError:
            return True
        except OSError:
            return False
    return True


def listening(listen: Listen) -> socket.socket:
    """Return a listening socket on a port that is otherwise unused; raises `RelayError`."""
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
