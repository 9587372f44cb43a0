"""The client's address behind a connection, and behind a proxy's request.

A header is used only if the operator trusts its sender. ``X-Forwarded-For`` is read from its end:
each proxy appends the address of its client. Entries before the last address that is not a trusted
proxy may be forged by the client. ``X-Real-IP`` is optional; if present, it must name the same
address, because a proxy that sets only one of the two headers passes on the client's own version of
the other.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from dstack_vpn.core.addresses import IPAddress, parse_ip, unmapped
from dstack_vpn.core.limits.shares import Network
from dstack_vpn.errors import FormatError

_MARKS: Final = frozenset(
    {"forwarded", "via", "x-real-ip", "x-client-ip", "x-cluster-client-ip", "true-client-ip", "cdn-loop"}
)
_MARKED: Final = ("x-forwarded", "x-envoy-", "x-original-", "cf-")
"""Headers, and prefixes of headers, that only proxies send."""
_HOPS: Final = 16
"""The maximum number of entries in ``X-Forwarded-For``."""


def shows_a_proxy(names: Iterable[str]) -> bool:
    """Return True if header names show that a proxy forwarded the request; False proves nothing."""
    return any(name in _MARKS or name.startswith(_MARKED) for name in map(str.lower, names))


def parse_address(text: str) -> IPAddress:
    """Parse an address in any usual notation; raises `FormatError`.

    An IPv4 address that is mapped into IPv6 is returned as IPv4.
    """
    if (address := parse_ip(text.partition("%")[0])) is None:
        raise FormatError("not an IP address")
    return unmapped(address)


def forwarded_client(
    peer: IPAddress, forwarded: Sequence[str], real: Sequence[str], proxies: Sequence[Network]
) -> IPAddress:
    """Return the client of a request that ``peer`` has sent; raises `FormatError` if it is unknown.

    ``forwarded`` and ``real`` are the values of all ``X-Forwarded-For`` and ``X-Real-IP`` headers.
    They are ignored unless ``peer`` is a trusted proxy.
    """
    if not _is_proxy(peer, proxies):
        return peer
    hops = [hop.strip() for value in forwarded for hop in value.split(",")]
    if len(hops) > _HOPS:
        raise FormatError("X-Forwarded-For: too long")
    client = next((a for a in map(_hop, reversed(hops)) if not _is_proxy(a, proxies)), None)
    claims = {_hop(value.strip()) for value in real}
    if client is None and len(claims) == 1:
        client = claims.pop()
    elif claims - {client}:
        raise FormatError("X-Real-IP and X-Forwarded-For differ: the proxy must set both, or clear one")
    if client is None:
        raise FormatError("no X-Forwarded-For from the proxy: it must name its client")
    return client


def _hop(text: str) -> IPAddress:
    """Parse one entry, to which some proxies add a port."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        return parse_address(text)
    except FormatError:
        raise FormatError("X-Forwarded-For: not an IP address") from None


def _is_proxy(address: IPAddress, proxies: Sequence[Network]) -> bool:
    return any(address in network for network in proxies if network.version == address.version)


def is_plain_host(host: str | None, suffix: str | None = None) -> bool:
    """Return True if a ``Host`` header names this machine in a way that no foreign page can.

    A page can make its own name resolve to a loopback or tunnel address (DNS rebinding), and then
    read the open paths there; ``Host`` still contains the page's name. ``suffix`` is the zone of
    this network.
    """
    if host is None:
        return True
    name, _ = _split(host)
    if parse_ip(name) is not None:
        return True
    return name == "localhost" or (suffix is not None and name.endswith(f".{suffix.lower()}"))


def names_our_port(host: str | None, port: int) -> bool:
    """Return True if a ``Host`` header names this port, as in a browser's direct request."""
    named = "" if host is None else _split(host)[1]
    return (named or "80") == str(port)


def _split(host: str) -> tuple[str, str]:
    """Return the name in a ``Host`` header, in lower case, and the port or an empty string."""
    head, _, port = host.rpartition(":")
    name, port = (head, port) if host.count(":") == 1 or "]" in head else (host, "")
    return name.removeprefix("[").removesuffix("]").lower(), port.strip()
