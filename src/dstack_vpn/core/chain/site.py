"""The host of an RPC URL: URLs of one host count as one endpoint in a quorum.

One machine can listen on many ports, and its name has many spellings: with a final dot, in capitals
or in Unicode; ``localhost``, ``127.0.0.1``, ``::1``, ``127.1``. A different scheme, port or key
does not make another endpoint. Two names of one provider are not detected: the operator chooses
them.

Other loopback addresses (127.0.0.2) count separately. Nothing listens there unless the operator
arranges it, so they allow tunnels on this machine to different providers to count separately.
"""

import ipaddress
from typing import Final

from dstack_vpn.core.addresses import parse_ip, unmapped

_HERE: Final = "127.0.0.1"


def site_of(host: str) -> str:
    """Return the canonical spelling of a URL's host."""
    name = host.lower().rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return _HERE
    if (address := parse_ip(name.partition("%")[0])) is None:
        number = _inet_aton(name)
        if number is None:
            return _ascii(name)
        address = ipaddress.IPv4Address(number)
    if address == ipaddress.IPv6Address("::1"):
        return _HERE
    address = unmapped(address)
    # A connection to the unspecified address reaches this machine.
    return _HERE if address.is_unspecified else str(address)


def _ascii(name: str) -> str:
    try:
        return name.encode("idna").decode("ascii")
    except UnicodeError:
        return name


def _inet_aton(name: str) -> int | None:
    """Return an IPv4 address as ``inet_aton`` reads it, or None.

    It has one to four numbers, which may be octal or hexadecimal.
    """
    numbers = [_number(part) for part in name.split(".")]
    if len(numbers) > 4 or not all(number is not None for number in numbers):
        return None
    *octets, last = [number for number in numbers if number is not None]
    if any(octet > 255 for octet in octets) or last >= 256 ** (4 - len(octets)):
        return None
    return sum(octet << (24 - 8 * i) for i, octet in enumerate(octets)) + last


def _number(text: str) -> int | None:
    base = 16 if text.startswith("0x") else 8 if text.startswith("0") and text != "0" else 10
    try:
        return int(text, base) if text.isascii() and text.isalnum() else None
    except ValueError:
        return None
