"""A network interface as rtnetlink has it: state, MTU, addresses and routes.

Whatever is asked for is compared with what is there, and only the difference is sent; what is there and was
not asked for goes. pyroute2 does the talking (0.2 to 0.3 ms a call). It is imported on first use: it costs
120 ms and 23 MB.

Every prefix that is routed into the tunnel gets a second route that swallows its packets, with the highest
metric, so that it counts only when the first has gone along with the interface: what was meant for a peer
never leaves in the clear by the default route. They are recognized by their protocol number and by a metric
that is the interface's own, so that several daemons on a host leave each other's alone.
"""

import errno
import ipaddress
import socket
import zlib
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import structlog

from dstack_vpn.core.model import Cidr
from dstack_vpn.errors import DeviceError

if TYPE_CHECKING:
    from pyroute2 import AsyncIPRoute

_log = structlog.get_logger()

PROTOCOL: Final = 118
"""Who made a route (rtnetlink.h: RTPROT_*; user-defined, and not in iproute2's rt_protos)."""
_METRIC_BASE: Final = 0x7600_0000
_MAIN_TABLE: Final = 254
_BLACKHOLE: Final = 6
_UNICAST: Final = 1
_IFF_UP: Final = 1
_IFA_F_NODAD: Final = 2
_NO_LINK_LOCAL: Final = 1
"""IN6_ADDR_GEN_MODE_NONE: the kernel makes up no address, and sends no router solicitations."""

_WITHOUT_IPV6: Final = frozenset({errno.EACCES, errno.EOPNOTSUPP, errno.EAFNOSUPPORT})
"""How the kernel refuses IPv6 where it is disabled for an interface, altogether, or not built."""
_ALREADY: Final = frozenset({errno.EEXIST})
_ABSENT: Final = frozenset({errno.ENOENT, errno.ESRCH, errno.ENODEV, errno.EADDRNOTAVAIL})

_PROBLEMS: Final = {
    errno.EPERM: "no permission to change network interfaces: CAP_NET_ADMIN is needed",
    errno.EOPNOTSUPP: "this kernel does not support it",
    errno.ENODEV: "the interface does not exist",
    errno.EADDRINUSE: "the UDP port is in use by another program",
}


def blackhole_metric(name: str) -> int:
    """The metric of an interface's blackhole routes: high, and another one for another interface."""
    return _METRIC_BASE + (zlib.crc32(name.encode()) & 0xFF_FFFF)


def family_of(cidr: Cidr) -> int:
    """The address family of a prefix."""
    return socket.AF_INET6 if ":" in cidr else socket.AF_INET


@asynccontextmanager
async def translated(doing: str) -> AsyncIterator[None]:
    """Turn the kernel's refusals into `DeviceError`: "can't <doing>: <why>"."""
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
    """Pass over refusals that mean that what was asked for is so already."""
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        yield
    except NetlinkError as error:
        if error.code not in codes:
            raise


class Interface:
    """One interface by its name, over one netlink connection that is opened when it is needed."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._opened: AsyncIPRoute | None = None
        self._said_without_ipv6 = False

    async def _route_socket(self) -> "AsyncIPRoute":
        if self._opened is None:
            from pyroute2 import AsyncIPRoute

            self._opened = AsyncIPRoute()
            await self._opened.setup_endpoint()
        return self._opened

    async def close(self) -> None:
        """Close the netlink connection; what was set up stays."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    # -- the link ---------------------------------------------------------------------------------------

    async def describe(self) -> dict[str, Any] | None:
        """The link's index, kind, mtu and whether it is up; None where there is none."""
        ipr = await self._route_socket()
        async with translated(f"read {self.name}"), tolerated(_ABSENT):
            for message in await ipr.link("get", ifname=self.name):
                return {
                    "index": message["index"],
                    "kind": message.get(("linkinfo", "kind")),
                    "mtu": message.get("mtu"),
                    "up": bool(message["flags"] & _IFF_UP),
                }
        return None

    async def index(self) -> int:
        """The link's index; raises `DeviceError` where there is none."""
        described = await self.describe()
        if described is None:
            raise DeviceError(f"the interface {self.name} does not exist")
        return int(described["index"])

    async def create(self, kind: str) -> None:
        """Create the link; one that exists is left as it is."""
        ipr = await self._route_socket()
        async with translated(f"create {self.name}"), tolerated(_ALREADY):
            await ipr.link("add", ifname=self.name, kind=kind)

    async def bring_up(self) -> None:
        """Bring the link up, without addresses of the kernel's own making."""
        ipr = await self._route_socket()
        index = await self.index()
        async with translated(f"bring {self.name} up"):
            async with tolerated(_WITHOUT_IPV6 | {errno.EINVAL}):
                mode = {"attrs": [("AF_INET6", {"attrs": [("IFLA_INET6_ADDR_GEN_MODE", _NO_LINK_LOCAL)]})]}
                await ipr.link("set", index=index, IFLA_AF_SPEC=mode)
            await ipr.link("set", index=index, state="up")

    async def set_mtu(self, mtu: int) -> bool:
        """Set the MTU in bytes where it differs; returns whether it did."""
        described = await self.describe()
        if described is None:
            raise DeviceError(f"the interface {self.name} does not exist")
        if described["mtu"] != mtu:
            ipr = await self._route_socket()
            async with translated(f"set the MTU of {self.name} to {mtu}"):
                await ipr.link("set", index=described["index"], mtu=mtu)
        return bool(described["mtu"] != mtu)

    async def delete(self) -> None:
        """Delete the link, with its addresses and routes; one that is not there is no error."""
        described = await self.describe()
        if described is not None:
            ipr = await self._route_socket()
            async with translated(f"delete {self.name}"), tolerated(_ABSENT):
                await ipr.link("del", index=described["index"])

    # -- addresses --------------------------------------------------------------------------------------

    async def addresses(self) -> frozenset[Cidr]:
        """The link's addresses of both families."""
        ipr, index = await self._route_socket(), await self.index()
        async with translated(f"read the addresses of {self.name}"):
            found = [
                f"{message.get('local') or message.get('address')}/{message['prefixlen']}"
                async for message in await ipr.addr("dump", index=index)
            ]
        return frozenset(map(_canonical_interface, found))

    async def set_addresses(self, wanted: Iterable[Cidr]) -> bool:
        """Make the link's addresses exactly these; returns whether they were not."""
        desired = frozenset(map(_canonical_interface, wanted))
        present = await self.addresses()
        for cidr in sorted(desired - present):
            await self._address("add", cidr)
        for cidr in sorted(present - desired):
            await self._address("del", cidr)
        return desired != present

    async def _address(self, verb: str, cidr: Cidr) -> None:
        ipr, index = await self._route_socket(), await self.index()
        address, _, length = cidr.partition("/")
        # Without duplicate address detection: it would leave the address unusable for a second.
        flags = {"flags": _IFA_F_NODAD} if verb == "add" and family_of(cidr) == socket.AF_INET6 else {}
        async with translated(f"{verb} {cidr} on {self.name}"), self._tolerating(cidr):
            await ipr.addr(verb, index=index, address=address, prefixlen=int(length), **flags)

    # -- routes -----------------------------------------------------------------------------------------

    async def set_routes(self, wanted: Iterable[Cidr]) -> bool:
        """Route exactly these prefixes through the link, and into a blackhole where it has gone.

        Returns whether it was not so.
        """
        desired = frozenset(wanted)
        # The blackholes first: there must be no moment in which a packet finds another way.
        swallowed = await self.set_blackholes(desired)
        index = await self.index()
        present = await self._routes(type=_UNICAST, proto=PROTOCOL, oif=index)
        for cidr in sorted(desired - present):
            await self._route("replace", cidr, oif=index)
        for cidr in sorted(present - desired):
            await self._route("del", cidr, oif=index)
        return swallowed or desired != present

    async def set_blackholes(self, wanted: Iterable[Cidr]) -> bool:
        """Make the interface's blackhole routes exactly these; returns whether they were not."""
        desired, metric = frozenset(wanted), blackhole_metric(self.name)
        present = await self._routes(type=_BLACKHOLE, proto=PROTOCOL, priority=metric)
        for cidr in sorted(desired - present):
            await self._route("replace", cidr, type="blackhole", priority=metric)
        for cidr in sorted(present - desired):
            await self._route("del", cidr, type="blackhole", priority=metric)
        return desired != present

    async def _routes(self, **match: int) -> frozenset[Cidr]:
        ipr = await self._route_socket()
        found: set[Cidr] = set()
        async with translated("read the routes"):
            for family in (socket.AF_INET, socket.AF_INET6):
                async with tolerated(_WITHOUT_IPV6):
                    async for message in await ipr.route("dump", family=family, table=_MAIN_TABLE):
                        if all(message.get(key) == value for key, value in match.items()):
                            found.add(_prefix(message))
        return frozenset(found)

    async def _route(self, verb: str, cidr: Cidr, **spec: object) -> None:
        ipr = await self._route_socket()
        where = {"dst": cidr, "family": family_of(cidr), "table": _MAIN_TABLE, "proto": PROTOCOL}
        gone = _ABSENT if verb == "del" else frozenset[int]()
        async with translated(f"{verb} the route to {cidr}"), tolerated(gone), self._tolerating(cidr):
            await ipr.route(verb, **where, **spec)

    @asynccontextmanager
    async def _tolerating(self, cidr: Cidr) -> AsyncIterator[None]:
        """Do without IPv6 where the host has none, and say so once."""
        from pyroute2.netlink.exceptions import NetlinkError

        try:
            yield
        except NetlinkError as error:
            if family_of(cidr) != socket.AF_INET6 or error.code not in _WITHOUT_IPV6:
                raise
            if not self._said_without_ipv6:
                _log.warning("device.no_ipv6", interface=self.name, first=cidr, reason=str(error))
                self._said_without_ipv6 = True


def _canonical_interface(cidr: Cidr) -> Cidr:
    return str(ipaddress.ip_interface(cidr))


def _prefix(message: Any) -> Cidr:  # noqa: ANN401  # pyroute2's messages have no type
    destination = message.get("dst") or ("::" if message["family"] == socket.AF_INET6 else "0.0.0.0")
    return str(ipaddress.ip_network(f"{destination}/{message['dst_len']}"))
