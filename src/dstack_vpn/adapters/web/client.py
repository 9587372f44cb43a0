"""The client's address behind a connection, and behind a proxy's request.

A header is used only if the operator trusts its sender. ``X-Forwarded-For`` is read from its
end: each proxy adds whom it heard from, so what stands before the first address that is no proxy of ours may
have been made up by the client. ``X-Real-IP`` is not needed, but where a proxy sends it, too, it has to say
the same: a proxy that sets one of the two passes the client's own version of the other on.
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
"""Headers, and what headers begin with, that only proxies send."""
_HOPS: Final = 16


def shows_a_proxy(names: Iterable[str]) -> bool:
    """Return whether header names say that a proxy has passed the request on; their absence says nothing."""
    return any(name in _MARKS or name.startswith(_MARKED) for name in map(str.lower, names))


def parse_address(text: str) -> IPAddress:
    """An address in any usual notation; one of IPv4 stays so inside of IPv6. Raises `FormatError`."""
    if (address := parse_ip(text.partition("%")[0])) is None:
        raise FormatError("not an IP address")
    return unmapped(address)


def forwarded_client(
    peer: IPAddress, forwarded: Sequence[str], real: Sequence[str], proxies: Sequence[Network]
) -> IPAddress:
    """Return the client of a request that ``peer`` has sent; raises `FormatError` if it is unknown.

    ``forwarded`` and ``real`` are the values of all ``X-Forwarded-For`` and ``X-Real-IP`` headers. From
    anybody but a proxy they mean nothing.
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
        raise FormatError("X-Real-IP and X-Forwarded-For disagree: have the proxy set both, or clear one")
    if client is None:
        raise FormatError("no X-Forwarded-For from the proxy: it has to say who its client is")
    return client


def _hop(text: str) -> IPAddress:
    """One entry, which some proxies write with a port."""
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
    """Return True if a ``Host`` header names this machine as no foreign page can; ``suffix`` is our zone.

    A page may have its own name resolve to a loopback or tunnel address (DNS rebinding) and then read what
    is open there; the name in ``Host`` stays its own.
    """
    if host is None:
        return True
    name, _ = _split(host)
    if parse_ip(name) is not None:
        return True
    return name == "localhost" or (suffix is not None and name.endswith(f".{suffix.lower()}"))


def names_our_port(host: str | None, port: int) -> bool:
    """Return whether a ``Host`` header names this port, as a browser does that asks at it directly."""
    named = "" if host is None else _split(host)[1]
    return (named or "80") == str(port)


def _split(host: str) -> tuple[str, str]:
    """Return a ``Host`` header's name, in lower case, and its port, if it has one."""
    head, _, port = host.rpartition(":")
    name, port = (head, port) if host.count(":") == 1 or "]" in head else (host, "")
    return name.removeprefix("[").removesuffix("]").lower(), port.strip()
