"""Sets of ports by protocol, with differences."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from dstack_vpn.core.policy.selectors import Ports, Protocol

_ALL: Final = 0, 65535
_PROTOCOLS: Final = (Protocol.TCP, Protocol.UDP, Protocol.ICMP, None)


class PortRange(NamedTuple):
    """Ports of one protocol."""

    protocol: Protocol | None
    """None: the protocols that are neither TCP, UDP nor ICMP."""
    first: int
    last: int
    """Inclusive. 0 and 65535 for protocols without ports."""

    def __str__(self) -> str:
        if self.protocol is None:
            return "other protocols"
        return str(Ports(self.protocol, self.first, self.last))


@dataclass(frozen=True, slots=True)
class PortSet:
    """A set of ports; false if it is empty."""

    ranges: tuple[PortRange, ...] = ()
    """By protocol, in ascending order, without overlaps."""

    @classmethod
    def of(cls, ports: Iterable[Ports]) -> "PortSet":
        """Return the set of all these ports."""
        listed = tuple(ports)
        return cls(tuple(each for protocol in _PROTOCOLS for each in _merged(protocol, listed)))

    def __bool__(self) -> bool:
        return bool(self.ranges)

    def __sub__(self, other: "PortSet") -> "PortSet":
        return PortSet(tuple(left for each in self.ranges for left in _without(each, other.ranges)))

    def __and__(self, other: "PortSet") -> "PortSet":
        return self - (self - other)

    def contains(self, protocol: Protocol | None, port: int) -> bool:
        """Return whether the set has a port (0 for protocols without ports)."""
        return any(each.protocol is protocol and each.first <= port <= each.last for each in self.ranges)

    def texts(self) -> list[str]:
        """Return the ports as a policy names them; ``*`` stands for everything."""
        whole = [PortRange(protocol, *_ALL) for protocol in _PROTOCOLS]
        return ["*"] if list(self.ranges) == whole else [str(each) for each in self.ranges]


def _merged(protocol: Protocol | None, ports: Iterable[Ports]) -> Iterator[PortRange]:
    spans = sorted((each.first, each.last) for each in ports if each.protocol in {None, protocol})
    start: int | None = None
    end = -2
    for first, last in spans:
        if start is not None and first > end + 1:
            yield PortRange(protocol, start, end)
            start = None
        start, end = (first, last) if start is None else (start, max(end, last))
    if start is not None:
        yield PortRange(protocol, start, end)


def _without(span: PortRange, others: Iterable[PortRange]) -> Iterator[PortRange]:
    first = span.first
    for other in others:
        if other.protocol is not span.protocol or other.last < first or other.first > span.last:
            continue
        if other.first > first:
            yield PortRange(span.protocol, first, other.first - 1)
        first = other.last + 1
    if first <= span.last:
        yield PortRange(span.protocol, first, span.last)
