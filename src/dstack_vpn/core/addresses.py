"""IP addresses, host names and ``host:port`` as text."""

import ipaddress
import re
from typing import Final, TypeAlias

from dstack_vpn.errors import FormatError

IPAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

_LABEL: Final = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?", re.ASCII)
_NAME_LENGTH: Final = 253
_PORT: Final = re.compile(r"[0-9]{1,5}", re.ASCII)
_EXPECTED: Final = "expected host:port, such as vpn.example.org:51820"


def parse_ip(text: str) -> IPAddress | None:
    """Return the IP address, with its zone if it has one; None if the text is not an address."""
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def unmapped(address: IPAddress) -> IPAddress:
    """Return an IPv4-mapped IPv6 address as IPv4 (RFC 4291, 2.5.5.2), and others unchanged."""
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def bracketed(host: str) -> str:
    """Return the host as it is written before a port: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host


def parse_host_name(host: str) -> str:
    """Accept a DNS host name; raises `FormatError`."""
    labels = host.removesuffix(".").split(".")
    # Most resolvers read a name that ends in a number as an address (127.1, 0x7f.1).
    numeric = labels[-1].isdigit() or labels[-1].lower().startswith("0x")
    if len(host) > _NAME_LENGTH or numeric or not all(_LABEL.fullmatch(x) for x in labels):
        raise FormatError(_EXPECTED)
    return host


def split_host_port(text: str, *, lowest: int = 1) -> tuple[str, int]:
    """Split ``host:port`` or ``[v6]:port``; raises `FormatError`.

    Returns an IP address in canonical text. ``lowest`` is the lowest port allowed: 0 to listen on
    any free port.
    """
    host, _, port = text.rpartition(":")
    if not host or not _PORT.fullmatch(port) or not lowest <= int(port) < 65536:
        raise FormatError(_EXPECTED)
    brackets = host.startswith("[") and host.endswith("]")
    address = parse_ip(host[1:-1] if brackets else host)
    if address is None and not brackets:
        return parse_host_name(host), int(port)
    if address is None or brackets is not (address.version == 6):
        raise FormatError("write an IPv6 address in brackets, such as [2001:db8::1]:51820")
    return str(address), int(port)
