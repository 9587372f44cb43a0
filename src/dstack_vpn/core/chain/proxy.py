"""The choice of a proxy for an RPC endpoint, by curl's rules for its environment variables.

A loopback address is never reached through a proxy, since the proxy's loopback is another
machine's.
"""

import ipaddress
from dataclasses import dataclass, field

from dstack_vpn.core.addresses import parse_ip, unmapped


@dataclass(frozen=True, slots=True)
class Proxies:
    """The proxies of the environment; the repr hides them, since a URL may contain a password."""

    plain: str | None = field(default=None, repr=False)
    """For ``http`` and ``ws``: a URL, or None."""
    secure: str | None = field(default=None, repr=False)
    """For ``https`` and ``wss``."""
    exempt: tuple[str, ...] = ()
    """Hosts reached directly: names (with all names below them), addresses, networks, or ``*``."""

    def of(self, scheme: str, host: str) -> str | None:
        """Return the proxy for a host, or None if it is reached directly."""
        proxy = self.secure if scheme in {"https", "wss"} else self.plain
        if proxy is None or _is_loopback(host) or any(_matches(host, entry) for entry in self.exempt):
            return None
        return proxy


DIRECT = Proxies()
"""No proxies at all."""


def _is_loopback(host: str) -> bool:
    address = parse_ip(host.strip("[]").partition("%")[0])
    if address is None:
        name = host.lower().rstrip(".")
        return name == "localhost" or name.endswith(".localhost")
    return unmapped(address).is_loopback


def _matches(host: str, entry: str) -> bool:
    """Return whether an entry of NO_PROXY covers a host."""
    if entry == "*":
        return True
    address = parse_ip(host.strip("[]").partition("%")[0])
    if address is None:
        name, suffix = host.lower().rstrip("."), entry.lower().strip(".")
        return bool(suffix) and (name == suffix or name.endswith(f".{suffix}"))
    try:
        return address in ipaddress.ip_network(entry.strip("[]"), strict=False)
    except ValueError:
        return False
