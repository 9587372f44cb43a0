"""The selectors of a policy: which members, networks and ports a grant is about."""

import ipaddress
import re
from dataclasses import dataclass
from enum import Enum
from typing import Final, Self

from dstack_vpn.core.model import parse_node_id, parse_tag
from dstack_vpn.core.paths.destination import IPNetwork
from dstack_vpn.errors import FormatError

_OWNER: Final = re.compile(r"0x[0-9a-fA-F]{40}", re.ASCII)
_PORTS: Final = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", re.ASCII)
_EXPECTED: Final = "expected *, tag:NAME, node:ID, owner:0x…, autogroup:self, autogroup:internet or a network"
_EXPECTED_PORTS: Final = (
    "expected *, icmp:*, or tcp: or udp: with *, a port or a range, such as tcp:8000-8080"
)


class SelectorKind(Enum):
    """The kinds of selectors, by their prefix."""

    ANY = "*"
    TAG = "tag"
    NODE = "node"
    OWNER = "owner"
    SELF = "autogroup:self"
    INTERNET = "autogroup:internet"
    NETWORK = "network"


@dataclass(frozen=True, slots=True)
class Selector:
    """Selects members or addresses."""

    kind: SelectorKind
    value: str = ""
    """The tag, the node id, the account in lower case, or the network."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a selector; raises `FormatError`."""
        for kind in (SelectorKind.ANY, SelectorKind.SELF, SelectorKind.INTERNET):
            if text == kind.value:
                return cls(kind)
        prefix, _, value = text.partition(":")
        match prefix:
            case "tag":
                return cls(SelectorKind.TAG, parse_tag(value))
            case "node":
                return cls(SelectorKind.NODE, parse_node_id(value))
            case "owner":
                if not _OWNER.fullmatch(value):
                    raise FormatError("owner: expected 0x and 40 hexadecimal digits")
                return cls(SelectorKind.OWNER, value.lower())
        try:
            return cls(SelectorKind.NETWORK, str(ipaddress.ip_network(text)))
        except ValueError:
            raise FormatError(_EXPECTED) from None

    @property
    def network(self) -> IPNetwork:
        """The network of a selector of this kind."""
        return ipaddress.ip_network(self.value)

    def __str__(self) -> str:
        match self.kind:
            case SelectorKind.TAG | SelectorKind.NODE | SelectorKind.OWNER:
                return f"{self.kind.value}:{self.value}"
            case SelectorKind.NETWORK:
                return self.value
            case kind:
                text: str = kind.value
                return text


class Protocol(Enum):
    """The protocols that a grant can name."""

    TCP = "tcp"
    UDP = "udp"
    ICMP = "icmp"
    """ICMP, and ICMPv6 over IPv6."""


@dataclass(frozen=True, slots=True)
class Ports:
    """A protocol with destination ports."""

    protocol: Protocol | None
    """None: every IP protocol."""
    first: int = 0
    last: int = 65535

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse ``*`` or ``PROTOCOL:PORTS``; raises `FormatError`."""
        if text == "*":
            return cls(None)
        name, _, ports = text.partition(":")
        if name not in {each.value for each in Protocol} or not ports:
            raise FormatError(_EXPECTED_PORTS)
        protocol = Protocol(name)
        if ports == "*":
            return cls(protocol)
        found = _PORTS.fullmatch(ports)
        if found is None or protocol is Protocol.ICMP:
            raise FormatError(_EXPECTED_PORTS)
        first, last = int(found[1]), int(found[2] or found[1])
        if not 1 <= first <= last <= 65535:
            raise FormatError("expected ports from 1 to 65535, the lower first")
        return cls(protocol, first, last)

    def contains(self, protocol: Protocol | None, port: int) -> bool:
        """Return whether packets of a protocol (None: another one) to a port are included.

        ICMP has no ports: its port is 0.
        """
        return self.protocol is None or (self.protocol is protocol and self.first <= port <= self.last)

    def __str__(self) -> str:
        if self.protocol is None:
            return "*"
        if (self.first, self.last) == (0, 65535):
            return f"{self.protocol.value}:*"
        ports = str(self.first) if self.first == self.last else f"{self.first}-{self.last}"
        return f"{self.protocol.value}:{ports}"
