"""Ownership: the interfaces and routes on this host that are the daemon's own, and conflicts.

The daemon shares a host with interfaces, routes and tunnels of other programs. A name proves
nothing: any program can create a ``wg0``. An interface is ours by one of these proofs:

    made     its alias carries our mark: the instance of our state directory, or one of our keys
    key      its WireGuard device has one of our keys (the current, next or previous one)
    found    it is a blank WireGuard: no key, no peers, no addresses; we use it, and leave it blank

A route is ours if it leads into such an interface, or if it is a blackhole with our protocol number
and the metric of our interface. Everything else is another program's. It is never changed or
removed, and if it is in the way, `in_the_way` names it, with the reason and the remedy, before
anything is changed.

All functions are pure: their input are facts, their output obstacles. The daemon at its start, the
running daemon, and ``doctor`` use the same functions.
"""

import ipaddress
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from dstack_vpn.core.addresses import parse_ip, unmapped
from dstack_vpn.core.model import Cidr
from dstack_vpn.core.wireguard.keys import PublicKey

MARK: Final = "dstack-vpn"
PROTOCOL: Final = 118
"""The origin of our routes (rtnetlink.h: RTPROT_*; user-defined, not in rt_protos of iproute2)."""
UNICAST: Final = 1
BLACKHOLE: Final = 6
"""rtnetlink.h: RTN_*"""
MOST_NAMED: Final = 5
"""Routes and addresses that one refusal names."""

NETWORK_METRIC: Final = 0x7500_0000
"""The metric of a route to a network behind another node: nearly every other route wins."""
_METRIC_BASE: Final = 0x7600_0000
_SWALLOWING: Final = frozenset({BLACKHOLE, 7, 8, 9})
"""RTN_BLACKHOLE, RTN_UNREACHABLE, RTN_PROHIBIT, RTN_THROW: routes without a destination."""
_KINDS: Final = {BLACKHOLE: "blackhole ", 7: "unreachable ", 8: "prohibit ", 9: "throw "}
_PROTOCOLS: Final = {2: "kernel", 3: "boot", 4: "static", 9: "ra", 16: "dhcp", PROTOCOL: "118"}
_SUMMARY: Final = {4: 1, 6: 8}
"""By IP version: prefixes up to this length do not conflict.

They are a default route in parts (0.0.0.0/1), or all of the ULA space (fd00::/8).
"""


class Proof(StrEnum):
    """The proof that an interface is ours."""

    MADE = "made"
    KEY = "key"
    FOUND = "found"


@dataclass(frozen=True, slots=True)
class LinkFact:
    """An interface."""

    index: int
    kind: str | None
    alias: str = ""
    addresses: frozenset[Cidr] = frozenset()


@dataclass(frozen=True, slots=True)
class DeviceFact:
    """The WireGuard device of an interface."""

    public_key: PublicKey | None
    peers: int


@dataclass(frozen=True, slots=True)
class RouteFact:
    """A route of the main table."""

    prefix: Cidr
    kind: int = UNICAST
    protocol: int = 0
    metric: int = 0
    index: int = 0
    """The interface's index; 0 if the route has no interface."""
    device: str = ""

    def __str__(self) -> str:
        parts = [f"{_KINDS.get(self.kind, '')}{self.prefix}"]
        if self.device and self.kind not in _SWALLOWING:
            parts.append(f"dev {self.device}")
        if self.protocol:
            parts.append(f"proto {_PROTOCOLS.get(self.protocol, self.protocol)}")
        if self.metric:
            parts.append(f"metric {self.metric}")
        return " ".join(parts)


@dataclass(frozen=True, slots=True)
class AddressFact:
    """An address of an interface, with the length of its network's prefix."""

    cidr: Cidr
    index: int
    device: str


@dataclass(frozen=True, slots=True)
class Host:
    """The facts about the host."""

    link: LinkFact | None = None
    """The interface that has our name."""
    device: DeviceFact | None = None
    unreadable: bool = False
    """The device could not be read, so its key and peers are unknown."""
    elsewhere: str | None = None
    """The path of a control socket on which a program of another network namespace listens."""
    holder: int | None = None
    """The process that claimed our interface's name in this namespace; 0: number unknown."""
    routes: Sequence[RouteFact] = ()
    addresses: Sequence[AddressFact] = ()
    hosts: Sequence[tuple[str, str]] = ()
    """Names that the node has to reach outside of the tunnel, each with an address."""
    config: str | None = None
    """The path of a wg-quick file that another program or a person has written."""


@dataclass(frozen=True, slots=True)
class Identity:
    """The marks by which an interface is proven to be ours."""

    instance: str = ""
    """Random, kept in the state directory; empty if it can't be kept."""
    keys: frozenset[PublicKey] = frozenset()
    """The current key, and the previous and next ones."""
    key: PublicKey | None = None
    """The current key."""

    def mark(self, proof: Proof) -> str:
        """Return the alias of an interface of ours."""
        parts = [MARK, self.instance or "-", "-" if self.key is None else str(self.key)]
        return " ".join([*parts, Proof.FOUND] if proof is Proof.FOUND else parts)

    def proof(self, link: LinkFact, device: DeviceFact | None) -> Proof | None:
        """Return the proof that the interface is ours; None if it is not."""
        parts = link.alias.split()
        marked = len(parts) >= 3 and parts[0] == MARK
        if marked and (parts[1] == (self.instance or None) or parts[2] in map(str, self.keys)):
            return Proof.FOUND if Proof.FOUND in parts[3:] else Proof.MADE
        if device is None:
            return None
        if device.public_key in self.keys:
            return Proof.KEY
        blank = device == DeviceFact(None, 0) and not link.addresses and not marked
        return Proof.FOUND if blank else None


@dataclass(frozen=True, slots=True)
class Claim:
    """The interface and prefixes that a daemon is going to use."""

    interface: str
    prefixes: tuple[Cidr, ...]
    """VPN_CIDR first, then the network's IPv6 prefix."""
    identity: Identity = field(default_factory=Identity)


@dataclass(frozen=True, slots=True)
class Obstacle:
    """An obstacle to a claim."""

    what: str
    """The thing in the way, and the reason that it is not ours."""
    remedy: str

    def __str__(self) -> str:
        return f"{self.what}: {self.remedy}"


def with_addresses(link: LinkFact, found: Iterable[AddressFact]) -> LinkFact:
    """Return the link with its addresses, except link-local ones, which the kernel assigns."""
    own = (address.cidr for address in found if address.index == link.index)
    kept = frozenset(cidr for cidr in own if not ipaddress.ip_interface(cidr).is_link_local)
    return replace(link, addresses=kept)


def blackhole_metric(name: str) -> int:
    """Return the metric of an interface's blackhole routes: high, and derived from the name."""
    return _METRIC_BASE + (zlib.crc32(name.encode()) & 0xFF_FFFF)


def is_network(route: RouteFact, own: int) -> bool:
    """Return whether a route is ours to a network behind another node, by our interface's index."""
    ours = (route.kind, route.protocol, route.index, route.metric)
    return ours == (UNICAST, PROTOCOL, own, NETWORK_METRIC)


def in_the_way(host: Host, claim: Claim) -> list[Obstacle]:
    """Return all obstacles to the claim."""
    found = [*_holder(host, claim), *_link(host, claim)]
    proven = host.link is not None and not found
    own = host.link.index if host.link is not None and proven else 0
    found += _routes(host, claim, own)
    found += _hosts(host, claim)
    if host.config is not None:
        found.append(
            Obstacle(
                f"{host.config} was not written by dstack-vpn, and is left as it is",
                "move it away, or set WIREGUARD_CONFIG to another path",
            )
        )
    return found


# -- the interface ---------------------------------------------------------------------------------


def _holder(host: Host, claim: Claim) -> Iterator[Obstacle]:
    if host.holder is not None:
        process = f" (process {host.holder})" if host.holder else ""
        yield Obstacle(
            f"another dstack-vpn{process} runs with INTERFACE={claim.interface} in this network namespace",
            "stop it, or choose another INTERFACE",
        )


def _link(host: Host, claim: Claim) -> Iterator[Obstacle]:
    if host.elsewhere is not None:
        yield elsewhere(host.elsewhere)
    elif host.link is not None and not host.unreadable:
        yield from foreign(claim.interface, host.link, host.device, claim.identity)


def elsewhere(path: str) -> Obstacle:
    """Return the obstacle of a control socket of another network namespace."""
    folder = path.rpartition("/")[0]
    return Obstacle(
        f"a WireGuard of another network namespace listens at {path}: both namespaces share {folder}",
        f"give this one a {folder} of its own (a tmpfs), or choose another INTERFACE",
    )


def foreign(name: str, link: LinkFact, device: DeviceFact | None, identity: Identity) -> Iterator[Obstacle]:
    """Return the obstacle of an interface, unless the interface is ours."""
    if identity.proof(link, device) is not None:
        return
    leftover = f"choose another INTERFACE; if it is left from an earlier run, 'ip link delete {name}'"
    parts = link.alias.split()
    if len(parts) >= 3 and parts[0] == MARK:
        whose = f"{name} was made by another dstack-vpn (public key {parts[2]})"
        yield Obstacle(whose, f"stop that one, or {leftover}")
    elif device is not None:
        peers = f"{device.peers} peer{'' if device.peers == 1 else 's'}"
        key = f"public key {device.public_key}" if device.public_key else "no key"
        what = f"{name} is a WireGuard tunnel that dstack-vpn did not set up ({key}, {peers})"
        yield Obstacle(what, leftover)
    elif link.kind == "tun":
        yield Obstacle(f"{name} is a TUN interface of another program", leftover)
    else:
        kind = f"a {link.kind} interface" if link.kind else "a network interface"
        what = f"{name} is {kind} that dstack-vpn did not make"
        yield Obstacle(what, "choose another INTERFACE")


# -- routes and addresses --------------------------------------------------------------------------


def clashes(route: RouteFact, claim: Claim, own: int) -> Cidr | None:
    """Return the prefix of ours with which a route conflicts; None if it does not, or is ours.

    ``own`` is the index of our interface, 0 if there is none.
    """
    ours = own and route.index == own and route.kind == UNICAST
    if ours or (
        route.kind == BLACKHOLE
        and route.protocol == PROTOCOL
        and route.metric == blackhole_metric(claim.interface)
    ):
        return None
    network = ipaddress.ip_network(route.prefix)
    if network.prefixlen <= _SUMMARY[network.version]:
        return None
    for prefix in claim.prefixes:
        mine = ipaddress.ip_network(prefix)
        if network.version != mine.version or not network.overlaps(mine):
            continue
        if route.kind in _SWALLOWING and network.prefixlen < mine.prefixlen:
            continue  # it has no destination, and ours is more specific: no conflict
        return prefix
    return None


def taken(routes: Iterable[RouteFact], claim: Claim, own: int) -> str | None:
    """Describe the routes that conflict with ours while the daemon runs; None without any."""
    found = [(route, prefix) for route in routes if (prefix := clashes(route, claim, own)) is not None]
    if not found:
        return None
    route, prefix = found[0]
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return f"the route {route} of another program takes packets for {prefix}{more}; remove it"


def _routes(host: Host, claim: Claim, own: int) -> Iterator[Obstacle]:
    found: dict[tuple[str, str], Obstacle] = {}
    for route in host.routes:
        if (prefix := clashes(route, claim, own)) is not None:
            found.setdefault((route.prefix, route.device), _route(route, prefix, claim))
    devices = {device for _, device in found}
    for address in host.addresses:
        network = str(ipaddress.ip_interface(address.cidr).network)
        as_route = RouteFact(network, index=address.index, device=address.device)
        prefix = clashes(as_route, claim, own)
        if prefix is not None and address.device not in devices:
            what = f"{address.device} has the address {address.cidr}, which overlaps {_named(prefix, claim)}"
            found.setdefault((network, address.device), Obstacle(what, _elsewhere(prefix, claim)))
    obstacles = list(found.values())
    yield from obstacles[:MOST_NAMED]
    if len(obstacles) > MOST_NAMED:
        yield Obstacle(f"{len(obstacles) - MOST_NAMED} more routes overlap", "see 'ip route'")


def _route(route: RouteFact, prefix: Cidr, claim: Claim) -> Obstacle:
    if route.protocol != PROTOCOL:
        what = f"the route {route} overlaps {_named(prefix, claim)}"
        return Obstacle(what, f"{_elsewhere(prefix, claim)}, or remove that route")
    what = f"the route {route} is another dstack-vpn's, and overlaps {_named(prefix, claim)}"
    return Obstacle(
        what,
        "stop that one, or run this one in a network namespace of its own; if it is left from an earlier "
        f"run, 'ip {'-6 ' if ':' in route.prefix else ''}route delete {route}'",
    )


def _named(prefix: Cidr, claim: Claim) -> str:
    return f"VPN_CIDR={prefix}" if prefix == claim.prefixes[0] else f"the network's IPv6 prefix {prefix}"


def _elsewhere(prefix: Cidr, claim: Claim) -> str:
    if prefix == claim.prefixes[0]:
        return "choose another VPN_CIDR, the same on all nodes"
    return "use another range there (chain and contract determine ours)"


def _hosts(host: Host, claim: Claim) -> Iterator[Obstacle]:
    for name, address in host.hosts:
        if (prefix := within(address, claim.prefixes)) is not None:
            at = "" if name.endswith(f" {address}") else f" ({address})"
            yield Obstacle(
                f"{name}{at} is within {_named(prefix, claim)}, so it would be sought in the tunnel",
                "choose another VPN_CIDR, the same on all nodes, or use another address",
            )


def within(address: str, prefixes: Iterable[Cidr]) -> Cidr | None:
    """Return the prefix that contains the address; None without one, or if not an address."""
    if (found := parse_ip(address)) is None:
        return None
    ip = unmapped(found)
    networks = ((prefix, ipaddress.ip_network(prefix)) for prefix in prefixes)
    return next((prefix for prefix, net in networks if net.version == ip.version and ip in net), None)
