"""Ports of this node that are forwarded from peers to machines behind it: ``FORWARD_TO``."""

import re
from dataclasses import dataclass
from typing import Final

from dstack_vpn.core.addresses import split_host_port
from dstack_vpn.errors import FormatError

PROTOCOLS: Final = ("tcp", "udp")


@dataclass(frozen=True, slots=True, order=True)
class Forward:
    """A forwarded port."""

    protocol: str
    port: int
    """The port at our tunnel addresses."""
    host: str
    """A name or an address, except this machine's loopback."""
    to_port: int

    @classmethod
    def parse(cls, text: str) -> "Forward":
        """Parse ``[tcp:|udp:]PORT=HOST[:PORT]``; raises `FormatError`."""
        ours, separator, target = text.partition("=")
        protocol, colon, port = ours.strip().rpartition(":")
        protocol = protocol if colon else "tcp"
        if not separator or protocol not in PROTOCOLS or not re.fullmatch(r"[0-9]{1,5}", port, re.ASCII):
            raise FormatError("expected [tcp:|udp:]PORT=HOST[:PORT]")
        if not 1 <= int(port) <= 65535:
            raise FormatError("expected a port from 1 to 65535")
        host, to_port = _target(target.strip(), int(port))
        if host == "localhost" or host.startswith("127.") or host == "::1":
            raise FormatError("a service of this machine needs no forwarding: have it listen on the tunnel")
        return cls(protocol, int(port), host, to_port)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.protocol}:{self.port}={host}:{self.to_port}"


def _target(text: str, port: int) -> tuple[str, int]:
    """Return host and port; without a port in the text, ours."""
    try:
        return split_host_port(text)
    except FormatError:
        return split_host_port(f"{text}:{port}")


def parse_forwards(text: str) -> tuple[Forward, ...]:
    """Parse a comma-separated list; raises `FormatError`, also if two have the same port."""
    forwards = tuple(Forward.parse(part) for part in filter(None, map(str.strip, text.split(","))))
    places = [(forward.protocol, forward.port) for forward in forwards]
    for place in places:
        if places.count(place) > 1:
            raise FormatError(f"{place[0]}:{place[1]} is forwarded twice")
    return forwards
