"""Loopback addresses that represent members and strangers in tests on one machine."""

import asyncio
import ipaddress
import socket
from typing import Final

from dstack_vpn.core.access.addressing import AddressPlan
from dstack_vpn.core.addresses import IPAddress
from dstack_vpn.core.limits.shares import Source, Sources

PLAN: Final = AddressPlan(ipaddress.IPv4Network("10.77.0.0/16"), ipaddress.IPv6Network("fd77:1:2::/48"))


class Crowd(Sources):
    """Sources by loopback address.

    127.1.x.y is the stranger 192.0.x.y, and 127.2.0.y is an address in 2001:db8::/64.
    127.3.0.y and 127.4.0.y are the IPv4 and IPv6 addresses of member y.
    """

    __slots__ = ()

    def of(self, there: str | IPAddress | None, here: str | IPAddress | None = None) -> Source:
        del here
        first, second, third, last = map(int, str(there).split("."))
        played = {
            (127, 1): f"192.0.{third}.{last}",
            (127, 2): f"2001:db8::{last:x}",
            (127, 3): str(PLAN.ipv4_of(last)),
            (127, 4): str(PLAN.ipv6_of(last)),
        }.get((first, second), "127.0.0.1")
        return Sources.of(self, played)


CROWD: Final = Crowd(PLAN)


async def connected(port: int, source: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect from this loopback address."""
    return await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0), family=socket.AF_INET)


async def is_open(reader: asyncio.StreamReader) -> bool:
    """Return False if the remote end closes the connection within 50 ms."""
    try:
        async with asyncio.timeout(0.05):
            return bool(await reader.read(1))
    except TimeoutError:
        return True
    except OSError:
        return False
