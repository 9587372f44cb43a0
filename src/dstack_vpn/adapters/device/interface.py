"""A network interface as rtnetlink has it: state, MTU, addresses and routes.

Whatever is asked for is compared with what is there, and only the difference is sent; what is there and was
not asked for goes. pyroute2 does the talking (0.2 to 0.3 ms a call). It is imported on first use: it costs
120 ms and 23 MB.

Every prefix that is routed into the tunnel gets a second route that swallows its packets, with the highest
metric, so that it counts only when the first has gone along with the interface: what was meant for a peer
never leaves in the clear by the default route. They are recognized by their protocol number and by a metric
that is the interface's own, so that several daemons on a host leave each other's alone (`core.ownership`).

A route of another program is never replaced, and only the link whose index was claimed is changed or deleted:
another one may have taken the name meanwhile.
"""

import errno
import ipaddress
import socket
from collections.abc import Awaitable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

import structlog

from dstack_vpn.adapters.device.rtnetlink import (
    ABSENT,
    ALREADY,
    WITHOUT_IPV6,
    canonical_interface,
    family_of,
    name_of,
    network_of,
    range_of,
    route_fact,
    tolerated,
    translated,
)
from dstack_vpn.core.model import Cidr
from dstack_vpn.core.ownership import (
    BLACKHOLE,
    PROTOCOL,
    UNICAST,
    AddressFact,
    LinkFact,
    RouteFact,
    blackhole_metric,
)
from dstack_vpn.errors import DeviceError

if TYPE_CHECKING:
    from pyroute2 import AsyncIPRoute

_log = structlog.get_logger()

_MAIN_TABLE: Final = 254
_OUR_METRICS: Final = frozenset({0, 1024})
"""Of a route that asks for none: IPv4's, IPv6's."""
_IFF_UP: Final = 1
_IFA_F_NODAD: Final = 2
_NO_LINK_LOCAL: Final = 1
"""IN6_ADDR_GEN_MODE_NONE: the kernel makes up no address, and sends no router solicitations."""


class Interface:
    """One interface by its name, over one netlink connection that is opened when it is needed."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.claimed: int | None = None
        """The index of the link that is ours; None until one was proven or made."""
        self.without_ipv6 = False
        """True if the host has refused an IPv6 address or route, at the last attempt."""
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
        """The link's index, kind, alias, mtu and whether it is up; None if there is none."""
        ipr = await self._route_socket()
        async with translated(f"read {self.name}"), tolerated(ABSENT):
            for message in await ipr.link("get", ifname=self.name):
                return {
                    "index": message["index"],
                    "kind": message.get(("linkinfo", "kind")),
                    "alias": message.get("ifalias") or "",
                    "mtu": message.get("mtu"),
                    "up": bool(message["flags"] & _IFF_UP),
                }
        return None

    async def fact(self) -> LinkFact | None:
        """Return the link as `core.ownership` judges it, without its addresses; None if it is missing."""
        described = await self.describe()
        if described is None:
            return None
        return LinkFact(int(described["index"]), described["kind"], described["alias"])

    async def _described(self) -> dict[str, Any]:
        """The link that is ours; raises `DeviceError` if it is gone, or if another has its name now."""
        described = await self.describe()
        if described is None:
            raise DeviceError(f"the interface {self.name} does not exist")
        if self.claimed is not None and described["index"] != self.claimed:
            raise DeviceError(f"another interface is called {self.name} now: it is left alone")
        return described

    async def index(self) -> int:
        """The link's index; raises `DeviceError` if there is none, or another one."""
        return int((await self._described())["index"])

    async def create(self, kind: str) -> bool:
        """Create the link; False if one of that name exists."""
        from pyroute2.netlink.exceptions import NetlinkError

        ipr = await self._route_socket()
        async with translated(f"create {self.name}"):
            try:
                await ipr.link("add", ifname=self.name, kind=kind)
            except NetlinkError as error:
                if error.code not in ALREADY:
                    raise
                return False
        return True

    async def set_alias(self, text: str) -> None:
        """Set the link's alias; empty takes it away. Raises `DeviceError`."""
        ipr, index = await self._route_socket(), await self.index()
        async with translated(f"mark {self.name}"):
            await ipr.link("set", index=index, ifalias=text)

    async def bring_up(self) -> None:
        """Bring the link up, without addresses of the kernel's own making."""
        ipr = await self._route_socket()
        index = await self.index()
        async with translated(f"bring {self.name} up"):
            async with tolerated(WITHOUT_IPV6 | {errno.EINVAL}):
                mode = {"attrs": [("AF_INET6", {"attrs": [("IFLA_INET6_ADDR_GEN_MODE", _NO_LINK_LOCAL)]})]}
                await ipr.link("set", index=index, IFLA_AF_SPEC=mode)
            await ipr.link("set", index=index, state="up")

    async def set_mtu(self, mtu: int) -> bool:
        """Set the MTU in bytes if it differs; returns whether it did."""
        described = await self._described()
        if described["mtu"] != mtu:
            ipr = await self._route_socket()
            async with translated(f"set the MTU of {self.name} to {mtu}"):
                await ipr.link("set", index=described["index"], mtu=mtu)
        return bool(described["mtu"] != mtu)

    async def take_down(self) -> None:
        """Take the link down, which removes its routes."""
        ipr, index = await self._route_socket(), await self.index()
        async with translated(f"take {self.name} down"):
            await ipr.link("set", index=index, state="down")

    async def delete(self) -> bool:
        """Delete the link that is ours, with its addresses and routes; returns whether it was there."""
        described = await self.describe()
        if described is None or described["index"] != self.claimed:
            return False
        ipr = await self._route_socket()
        async with translated(f"delete {self.name}"), tolerated(ABSENT):
            await ipr.link("del", index=described["index"])
        return True

    # -- addresses --------------------------------------------------------------------------------------

    async def host_addresses(self) -> list[AddressFact]:
        """The addresses of all links of the host."""
        ipr = await self._route_socket()
        async with translated("read the addresses"):
            return [
                AddressFact(
                    f"{message.get('local') or message.get('address')}/{message['prefixlen']}",
                    message["index"],
                    name_of(message["index"]),
                )
                async for message in await ipr.addr("dump")
            ]

    async def addresses(self) -> frozenset[Cidr]:
        """The link's addresses of both families."""
        ipr, index = await self._route_socket(), await self.index()
        async with translated(f"read the addresses of {self.name}"):
            found = [
                f"{message.get('local') or message.get('address')}/{message['prefixlen']}"
                async for message in await ipr.addr("dump", index=index)
            ]
        return frozenset(map(canonical_interface, found))

    async def set_addresses(self, wanted: Iterable[Cidr]) -> bool:
        """Make the link's addresses exactly these; returns whether any was changed."""
        desired = frozenset(map(canonical_interface, wanted))
        present = await self.addresses()
        changed = False
        for cidr in sorted(desired - present):
            changed |= await self._address("add", cidr)
        for cidr in sorted(present - desired):
            changed |= await self._address("del", cidr)
        return changed

    async def _address(self, verb: str, cidr: Cidr) -> bool:
        ipr, index = await self._route_socket(), await self.index()
        address, _, length = cidr.partition("/")
        # Without duplicate address detection: it would leave the address unusable for a second.
        flags = {"flags": _IFA_F_NODAD} if verb == "add" and family_of(cidr) == socket.AF_INET6 else {}
        async with translated(f"{verb} {cidr} on {self.name}"):
            request = ipr.addr(verb, index=index, address=address, prefixlen=int(length), **flags)
            return await self._done(cidr, request)

    # -- routes -----------------------------------------------------------------------------------------

    async def routes(self, prefixes: Collection[Cidr]) -> list[RouteFact]:
        """The routes of the main table that overlap the prefixes, and all with our protocol number."""
        ipr = await self._route_socket()
        ours = [range_of(ipaddress.ip_network(prefix)) for prefix in prefixes]
        found: list[RouteFact] = []
        async with translated("read the routes"):
            for family in (socket.AF_INET, socket.AF_INET6):
                async with tolerated(WITHOUT_IPV6):
                    async for message in await ipr.route("dump", family=family, table=_MAIN_TABLE):
                        network = network_of(message)
                        first, last, version = range_of(network)
                        if message["proto"] == PROTOCOL or any(
                            version == other and first <= high and low <= last for low, high, other in ours
                        ):
                            found.append(route_fact(message, str(network)))
        return found

    async def set_routes(self, wanted: Iterable[Cidr], present: Sequence[RouteFact]) -> bool:
        """Route exactly these prefixes through the link; returns whether any was changed.

        ``present`` is what `routes` has returned. A prefix that another program has routed is left to it.
        """
        desired, index = frozenset(wanted), await self.index()
        ours = {r.prefix for r in present if (r.kind, r.protocol, r.index) == (UNICAST, PROTOCOL, index)}
        taken = {r.prefix for r in present if r.metric in _OUR_METRICS} - ours
        changed = False
        for cidr in sorted(desired - ours - taken):
            changed |= await self._route("add", cidr, oif=index)
        for cidr in sorted(ours - desired):
            changed |= await self._route("del", cidr, oif=index)
        return changed

    async def set_blackholes(self, wanted: Iterable[Cidr], present: Sequence[RouteFact]) -> bool:
        """Make the interface's blackhole routes exactly these; returns whether any was changed."""
        desired, metric = frozenset(wanted), blackhole_metric(self.name)
        ours = {r.prefix for r in present if (r.kind, r.protocol, r.metric) == (BLACKHOLE, PROTOCOL, metric)}
        changed = False
        for cidr in sorted(desired - ours):
            changed |= await self._route("add", cidr, type="blackhole", priority=metric)
        for cidr in sorted(ours - desired):
            changed |= await self._route("del", cidr, type="blackhole", priority=metric)
        return changed

    async def _route(self, verb: str, cidr: Cidr, **spec: object) -> bool:
        ipr = await self._route_socket()
        where = {"dst": cidr, "family": family_of(cidr), "table": _MAIN_TABLE, "proto": PROTOCOL}
        gone = ABSENT if verb == "del" else frozenset[int]()
        async with translated(f"{verb} the route to {cidr}"):
            return await self._done(cidr, ipr.route(verb, **where, **spec), gone)

    async def _done(
        self, cidr: Cidr, request: Awaitable[object], passed: frozenset[int] = frozenset()
    ) -> bool:
        """Await a change of IPv4 or IPv6; False if the host has no IPv6, which is logged once.

        ``passed`` are the kernel's refusals that don't matter.
        """
        from pyroute2.netlink.exceptions import NetlinkError

        is_ipv6 = family_of(cidr) == socket.AF_INET6
        try:
            await request
        except NetlinkError as error:
            if error.code in passed:
                return True
            if not is_ipv6 or error.code not in WITHOUT_IPV6:
                raise
            self.without_ipv6 = True
            if not self._said_without_ipv6:
                _log.warning("device.no_ipv6", interface=self.name, first=cidr, reason=str(error))
                self._said_without_ipv6 = True
            return False
        self.without_ipv6 &= not is_ipv6
        return True
