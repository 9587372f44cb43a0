"""Conversion between pyroute2's messages and ours: errors, addresses and routes of rtnetlink(7)."""

import errno
import ipaddress
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from dstack_vpn.core.model import Cidr
from dstack_vpn.core.ownership import RouteFact
from dstack_vpn.errors import DeviceError

WITHOUT_IPV6: Final = frozenset({errno.EACCES, errno.EOPNOTSUPP, errno.EAFNOSUPPORT})
"""The kernel's refusals of IPv6: disabled for an interface, disabled altogether, or not built."""
ALREADY: Final = frozenset({errno.EEXIST})
ABSENT: Final = frozenset({errno.ENOENT, errno.ESRCH, errno.ENODEV, errno.EADDRNOTAVAIL})

_PROBLEMS: Final = {
    errno.EPERM: "no permission to change network interfaces: CAP_NET_ADMIN is needed",
    errno.EOPNOTSUPP: "this kernel does not support it",
    errno.ENODEV: "the interface does not exist",
    errno.EADDRINUSE: "the UDP port is in use by another program",
}


def family_of(cidr: Cidr) -> int:
    """Return the address family of a prefix."""
    return socket.AF_INET6 if ":" in cidr else socket.AF_INET


@asynccontextmanager
async def translated(doing: str) -> AsyncIterator[None]:
    """Translate the kernel's refusals to `DeviceError`: "can't <doing>: <why>"."""
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        yield
    except NetlinkError as error:
        why = _PROBLEMS.get(error.code) or str(error.args[-1])
        raise DeviceError(f"can't {doing}: {why}") from error
    except OSError as error:
        raise DeviceError(f"can't {doing}: {error.strerror}") from error


@asynccontextmanager
async def tolerated(codes: frozenset[int]) -> AsyncIterator[None]:
    """Ignore refusals with these codes, which mean that the desired state is present already."""
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        yield
    except NetlinkError as error:
        if error.code not in codes:
            raise


def canonical_interface(cidr: Cidr) -> Cidr:
    """Return an address with its prefix length in canonical form."""
    return str(ipaddress.ip_interface(cidr))


def network_of(message: dict[str, Any]) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """Return the destination of a route message."""
    destination = message.get("dst") or ("::" if message["family"] == socket.AF_INET6 else "0.0.0.0")
    return ipaddress.ip_network(f"{destination}/{message['dst_len']}")


def range_of(network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> tuple[int, int, int]:
    """Return the first and last address as integers, and the IP version."""
    return int(network.network_address), int(network.broadcast_address), network.version


def route_fact(message: dict[str, Any], prefix: Cidr) -> RouteFact:
    """Return a route message for `core.ownership`. Of several next hops, the first counts."""
    hops = message.get("multipath") or ()
    index = message.get("oif") or (hops[0]["oif"] if hops else 0)
    metric = message.get("priority") or 0
    return RouteFact(prefix, message["type"], message["proto"], metric, index, name_of(index))


def name_of(index: int) -> str:
    """Return the name of the interface with an index. It is empty if the interface is missing."""
    try:
        return socket.if_indextoname(index) if index else ""
    except OSError:
        return ""
