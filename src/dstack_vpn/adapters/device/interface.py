"""A network interface through rtnetlink: state, MTU, addresses and routes.

The desired state is compared with the present one, and only the difference is sent. Addresses and
routes that are not desired are removed. pyroute2 is used for the calls (0.2 to 0.3 ms each). It is
imported on first use, because it costs 120 ms and 23 MB.

Every prefix that is routed into the tunnel has a second, blackhole route with the highest metric.
It takes effect when the first route disappears with the interface, so that traffic for a peer never
leaves in plain text by the default route. Our blackhole routes are recognized by their protocol
number and by a metric that is specific to the interface, so that several daemons on a host do not
disturb each other (`core.ownership`).

A network behind another node has a route with a high metric, so that a route of another program to
the same network has precedence.

A route of another program is never replaced. Only the link whose index was claimed is changed or
deleted, because another link may have taken its name.
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
    NETWORK_METRIC,
    PROTOCOL,
    UNICAST,
    AddressFact,
    LinkFact,
    RouteFact,
    blackhole_metric,
    is_network,
)
from dstack_vpn.errors import DeviceError

if TYPE_CHECKING:
    from pyroute2 import AsyncIPRoute

_log = structlog.get_logger()

_MAIN_TABLE: Final = 254
_OUR_METRICS: Final = frozenset({0, 1024})
"""The metrics of a route that requests none: of IPv4 and of IPv6."""
_IFF_UP: Final = 1
_IFA_F_NODAD: Final = 2
_NO_LINK_LOCAL: Final = 1
"""IN6_ADDR_GEN_MODE_NONE: the kernel adds no link-local address and sends no router
solicitations."""


class Interface:
    """One interface by its name, over one netlink connection that is opened on first use."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.claimed: int | None = None
        """The index of our link. None until its ownership was proven or it was created."""
        self.without_ipv6 = False
        """True if the host refused the last IPv6 address or route."""
        self._opened: AsyncIPRoute | None = None
        self._logged_without_ipv6 = False

    async def _route_socket(self) -> "AsyncIPRoute":
        if self._opened is None:
            from pyroute2 import AsyncIPRoute

            self._opened = AsyncIPRoute()
            await self._opened.setup_endpoint()
        return self._opened

    async def close(self) -> None:
        """Close the netlink connection. The configuration of the host stays."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    # -- the link ----------------------------------------------------------------------------------

    async def describe(self) -> dict[str, Any] | None:
        """Return the link's index, kind, alias, MTU and whether it is up. None if it is missing."""
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
        """Return the link for `core.ownership`, without its addresses. None if it is missing."""
        described = await self.describe()
        if described is None:
            return None
        return LinkFact(int(described["index"]), described["kind"], described["alias"])

    async def _described(self) -> dict[str, Any]:
        """Return our link. Raises `DeviceError` if it is gone or another link has its name."""
        described = await self.describe()
        if described is None:
            raise DeviceError(f"the interface {self.name} does not exist")
        if self.claimed is not None and described["index"] != self.claimed:
            raise DeviceError(f"another interface has the name {self.name}: it is not changed")
        return described

    async def index(self) -> int:
        """Return the index of our link. Raises `DeviceError` as `_described` does."""
        return int((await self._described())["index"])

    async def create(self, kind: str) -> bool:
        """Create the link. Return False if a link of that name exists."""
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
        """Set the link's alias. An empty one removes it. Raises `DeviceError`."""
        ipr, index = await self._route_socket(), await self.index()
        async with translated(f"mark {self.name}"):
            await ipr.link("set", index=index, ifalias=text)

    async def bring_up(self) -> None:
        """Bring the link up, without a link-local address."""
        ipr = await self._route_socket()
        index = await self.index()
        async with translated(f"bring {self.name} up"):
            async with tolerated(WITHOUT_IPV6 | {errno.EINVAL}):
                mode = {"attrs": [("AF_INET6", {"attrs": [("IFLA_INET6_ADDR_GEN_MODE", _NO_LINK_LOCAL)]})]}
                await ipr.link("set", index=index, IFLA_AF_SPEC=mode)
            await ipr.link("set", index=index, state="up")

    async def set_mtu(self, mtu: int) -> bool:
        """Set the MTU in bytes if it differs. Return True if it did."""
        described = await self._described()
        if described["mtu"] != mtu:
            ipr = await self._route_socket()
            async with translated(f"set the MTU of {self.name} to {mtu}"):
                await ipr.link("set", index=described["index"], mtu=mtu)
        return bool(described["mtu"] != mtu)

    async def take_down(self) -> None:
        """Bring the link down, which removes its routes."""
        ipr, index = await self._route_socket(), await self.index()
        async with translated(f"take {self.name} down"):
            await ipr.link("set", index=index, state="down")

    async def delete(self) -> bool:
        """Delete our link with its addresses and routes. Return False if it is gone."""
        described = await self.describe()
        if described is None or described["index"] != self.claimed:
            return False
        ipr = await self._route_socket()
        async with translated(f"delete {self.name}"), tolerated(ABSENT):
            await ipr.link("del", index=described["index"])
        return True

    # -- addresses ---------------------------------------------------------------------------------

    async def host_addresses(self) -> list[AddressFact]:
        """Return the addresses of all links of the host."""
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
        """Return the link's addresses of both families."""
        ipr, index = await self._route_socket(), await self.index()
        async with translated(f"read the addresses of {self.name}"):
            found = [
                f"{message.get('local') or message.get('address')}/{message['prefixlen']}"
                async for message in await ipr.addr("dump", index=index)
            ]
        return frozenset(map(canonical_interface, found))

    async def set_addresses(self, wanted: Iterable[Cidr]) -> bool:
        """Set the link's addresses to exactly these. Return True if any was changed."""
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
        # Duplicate address detection would make the address unusable for a second.
        flags = {"flags": _IFA_F_NODAD} if verb == "add" and family_of(cidr) == socket.AF_INET6 else {}
        async with translated(f"{verb} {cidr} on {self.name}"):
            request = ipr.addr(verb, index=index, address=address, prefixlen=int(length), **flags)
            return await self._done(cidr, request)

    # -- routes ------------------------------------------------------------------------------------

    async def routes(self, prefixes: Collection[Cidr]) -> list[RouteFact]:
        """Return the main table's routes that overlap the prefixes or have our protocol number."""
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
        """Route exactly these prefixes through the link. Return True if any route was changed.

        ``present`` is a result of `routes`. A prefix that another program has routed is not routed.
        """
        desired, index = frozenset(wanted), await self.index()
        ours = {
            r.prefix
            for r in present
            if (r.kind, r.protocol, r.index) == (UNICAST, PROTOCOL, index) and not is_network(r, index)
        }
        taken = {r.prefix for r in present if r.metric in _OUR_METRICS} - ours
        changed = False
        for cidr in sorted(desired - ours - taken):
            changed |= await self._route("add", cidr, oif=index)
        for cidr in sorted(ours - desired):
            changed |= await self._route("del", cidr, oif=index)
        return changed

    async def set_networks(self, wanted: Iterable[Cidr], present: Sequence[RouteFact]) -> bool:
        """Route exactly these networks behind other nodes through the link.

        A route of another program to the same network has precedence by its metric. Return True if
        any route was changed. ``present`` is a result of `routes`.
        """
        desired, index = frozenset(wanted), await self.index()
        ours = {each.prefix for each in present if is_network(each, index)}
        changed = False
        for cidr in sorted(desired - ours):
            changed |= await self._route("add", cidr, oif=index, priority=NETWORK_METRIC)
        for cidr in sorted(ours - desired):
            changed |= await self._route("del", cidr, oif=index, priority=NETWORK_METRIC)
        return changed

    async def set_blackholes(self, wanted: Iterable[Cidr], present: Sequence[RouteFact]) -> bool:
        """Set the interface's blackhole routes to exactly these. Return True if any was changed."""
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
        fields = {"dst": cidr, "family": family_of(cidr), "table": _MAIN_TABLE, "proto": PROTOCOL}
        gone = ABSENT if verb == "del" else frozenset[int]()
        async with translated(f"{verb} the route to {cidr}"):
            return await self._done(cidr, ipr.route(verb, **fields, **spec), gone)

    async def _done(
        self, cidr: Cidr, request: Awaitable[object], passed: frozenset[int] = frozenset()
    ) -> bool:
        """Await a change of an IPv4 or IPv6 setting. Return False if the host has no IPv6.

        A missing IPv6 is logged once. ``passed`` are the errno values to ignore.
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
            if not self._logged_without_ipv6:
                _log.warning("device.no_ipv6", interface=self.name, first=cidr, reason=str(error))
                self._logged_without_ipv6 = True
            return False
        self.without_ipv6 &= not is_ipv6
        return True
