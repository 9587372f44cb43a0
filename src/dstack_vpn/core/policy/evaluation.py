"""The decisions of a policy, and their reasons.

Connections are judged by their first packet: source, destination, protocol and destination port.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from dstack_vpn.core.addresses import IPAddress
from dstack_vpn.core.policy.directory import Member, MemberDirectory, Place
from dstack_vpn.core.policy.document import Expectation, Grant, PolicyDocument
from dstack_vpn.core.policy.port_set import PortSet
from dstack_vpn.core.policy.reach import GrantIndex, examples
from dstack_vpn.core.policy.selectors import Ports, Protocol, Selector
from dstack_vpn.errors import FormatError

_EXPECTED: Final = "expected tcp:PORT, udp:PORT or icmp"
NO_SOURCE: Final = "a gateway lets no connection from its network in"
"""The reason that a network opens nothing as a source."""


@dataclass(frozen=True, slots=True)
class Packet:
    """The packets of a connection in the direction of its first packet."""

    src: IPAddress
    dst: IPAddress
    protocol: Protocol | None
    """None: a protocol that a grant can't name."""
    port: int = 0
    """The destination port; 0 without ports."""

    def __str__(self) -> str:
        if self.protocol is None:
            return "another protocol"
        return str(Ports(self.protocol, self.port, self.port) if self.port else Ports(self.protocol))


def parse_packet(src: IPAddress, dst: IPAddress, ports: str) -> Packet:
    """Return the packet to ``tcp:PORT``, ``udp:PORT`` or ``icmp``; raises `FormatError`."""
    try:
        found = Ports.parse("icmp:*" if ports == "icmp" else ports)
    except FormatError:
        raise FormatError(_EXPECTED) from None
    if src.version != dst.version:
        raise FormatError("the addresses are of different IP versions")
    if found.protocol is None or (found.protocol is not Protocol.ICMP and found.first != found.last):
        raise FormatError(_EXPECTED)
    return Packet(src, dst, found.protocol, 0 if found.protocol is Protocol.ICMP else found.first)


@dataclass(frozen=True, slots=True)
class PacketDecision:
    """A decision about a flow."""

    allowed: bool
    grants: tuple[int, ...]
    """The numbers of the grants that decided, from 1: those that allow it, or those that match all
    but the ports."""
    reason: str


def decide(policy: PolicyDocument, directory: MemberDirectory, flow: Packet) -> PacketDecision:
    """Return whether a policy allows a flow, and why."""
    src, dst = directory.place(flow.src), directory.place(flow.dst)
    for place, role in ((src, "source"), (dst, "destination")):
        if not place.is_known:
            return PacketDecision(
                False, (), f"the {role} {place.address} is not a member's and in no member's network"
            )
    if src.member is None:
        return PacketDecision(False, (), f"the source {src} is not a member's: {NO_SOURCE}")
    parties = [n for n, grant in enumerate(policy.grants, 1) if _is_between(grant, src, dst)]
    allowing = tuple(n for n in parties if _has_ports(policy.grants[n - 1], flow))
    if allowing:
        return PacketDecision(True, allowing, f"{_grants(allowing)} allow{'s' * (len(allowing) == 1)} it")
    if parties:
        which = f"{_grants(parties)} allow{'s' * (len(parties) == 1)} other ports, but not {flow}"
        return PacketDecision(False, tuple(parties), which)
    if not any(_has_source(grant, src) for grant in policy.grants):
        return PacketDecision(False, (), f"no grant has {src} as a source")
    return PacketDecision(False, (), f"no grant for {src} has {dst} as a destination")


def allows(policy: PolicyDocument, directory: MemberDirectory, flow: Packet) -> bool:
    """Return whether a policy allows a flow."""
    src, dst = directory.place(flow.src), directory.place(flow.dst)
    return any(_is_between(grant, src, dst) and _has_ports(grant, flow) for grant in policy.grants)


def _grants(numbers: tuple[int, ...] | list[int]) -> str:
    listed = ", ".join(map(str, numbers))
    return f"grant {listed}" if len(numbers) == 1 else f"grants {listed}"


def _has_source(grant: Grant, src: Place) -> bool:
    return src.member is not None and any(src.matches(selector) for selector in grant.src)


def _is_between(grant: Grant, src: Place, dst: Place) -> bool:
    return _has_source(grant, src) and any(dst.matches(selector, src) for selector in grant.dst)


def _has_ports(grant: Grant, flow: Packet) -> bool:
    return any(ports.contains(flow.protocol, flow.port) for ports in grant.ip)


@dataclass(frozen=True, slots=True)
class Failure:
    """A test of a policy that fails."""

    number: int
    """From 1."""
    problem: str


def failures(policy: PolicyDocument, directory: MemberDirectory) -> Iterator[Failure]:
    """Yield the failing tests of a policy: a problem of each.

    A test is about all members that its selectors name, and about all ports of ``*``. A selector
    that names no member is a problem: the test would check nothing.
    """
    index = GrantIndex(policy)
    for number, test in enumerate(policy.tests, 1):
        problem = next(_problems(policy, directory, index, test), None)
        if problem is not None:
            yield Failure(number, problem)


def _problems(
    policy: PolicyDocument, directory: MemberDirectory, index: GrantIndex, test: Expectation
) -> Iterator[str]:
    sources = directory.named(test.src)
    if not sources:
        yield f"{test.src} names no member"
    for targets, wanted in ((test.accept, True), (test.deny, False)):
        for target in targets:
            destinations = directory.named(target.dst)
            if not destinations:
                yield f"{target.dst} names no member"
            aim = PortSet.of((target.ports,))
            for source, destination, ports in examples(index, sources, destinations):
                allowed, denied = aim & PortSet.of(ports), aim - PortSet.of(ports)
                if wrong := denied if wanted else allowed:
                    flow = _packet(source, destination, wrong)
                    found, expected = decide(policy, directory, flow), "allowed" if wanted else "denied"
                    yield f"{source} to {target.dst}:{flow} must be {expected}, but {found.reason}"


def _packet(source: Member, destination: Member, ports: PortSet) -> Packet:
    """Return a packet to the first of these ports."""
    first = ports.ranges[0]
    return next(packets(source, destination, Ports(first.protocol, first.first)))


def packets(source: Member, destination: Member, ports: Ports) -> Iterator[Packet]:
    """Yield a flow to the first port for each pair of addresses of the same IP version."""
    for src in sorted(source.addresses, key=str):
        for dst in sorted(destination.addresses, key=str):
            if src.version == dst.version:
                yield Packet(src, dst, ports.protocol, ports.first)


def unmatched(policy: PolicyDocument, directory: MemberDirectory) -> Iterator[Selector]:
    """Yield the selectors of tags, nodes and owners that name no member, once each."""
    seen: set[Selector] = set()
    for grant in policy.grants:
        for selector in (*grant.src, *grant.dst):
            if selector.kind.value in {"tag", "node", "owner"} and selector not in seen:
                seen.add(selector)
                if not directory.named(selector):
                    yield selector
