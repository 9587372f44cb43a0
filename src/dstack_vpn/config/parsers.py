"""Parsers of settings. Each raises `FormatError` or `ValueError` with the problem."""

import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Generic, TypeVar
from urllib.parse import urlsplit

from dstack_vpn.config.settings import NETWORKS, Secret
from dstack_vpn.core.access.membership import fill_template
from dstack_vpn.core.access.staleness import StalePolicy
from dstack_vpn.core.addresses import parse_ip, split_host_port
from dstack_vpn.core.chain.site import site_of
from dstack_vpn.core.model import Address, SocketAddress, parse_node_id
from dstack_vpn.core.paths.peer_endpoint import PeerEndpoint
from dstack_vpn.core.paths.relay_url import Listen
from dstack_vpn.core.paths.selector import TransportMode
from dstack_vpn.core.wireguard.keys import PrivateKey
from dstack_vpn.errors import FormatError

GENERATE: Final = "generate"
"""The value that requests a generated key."""
DSTACK: Final = "dstack"
"""The value that requests the key from the dstack guest agent."""


def number(low: int, high: int, unit: str = "") -> Callable[[str], int]:
    """Return the parser of a whole number from ``low`` to ``high``."""

    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,20}", text, re.ASCII) or not low <= int(text) <= high:
            raise FormatError(f"expected a number from {low} to {high}{unit}")
        return int(text)

    return parse


_BOOLEANS: Final = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}

PENDING_LOGS: Final = "pendingLogs"
"""The usual name of the subscription to logs of pre-confirmed blocks."""


def subscription(text: str) -> str | None:
    """Parse the name of a subscription: 1 is the usual one, and 0 none."""
    if text.lower() in _BOOLEANS:
        return PENDING_LOGS if _BOOLEANS[text.lower()] else None
    if not re.fullmatch(r"[A-Za-z][A-Za-z_]{2,63}", text, re.ASCII):
        raise FormatError(f"expected 1, 0, or the name of a subscription such as {PENDING_LOGS}")
    return text


_UNITS: Final = {"ms": 1, "s": 1000, "m": 60_000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}
"""The units in milliseconds."""


def duration(low: str, high: str, *, or_0: bool = False, plain: str = "ms") -> Callable[[str], int]:
    """Return the parser of a time such as 30s, in milliseconds; plain numbers use ``plain``."""
    least, most = _milliseconds(low, plain), _milliseconds(high, plain)

    def parse(text: str) -> int:
        found = _milliseconds(text, plain)
        if or_0 and found == 0:
            return 0
        if found is None or least is None or most is None or not least <= found <= most:
            more = ", or 0" if or_0 else ""
            raise FormatError(f"expected a time from {low} to {high}, with ms, s, m, h or d{more}")
        return found

    return parse


def seconds(low: int, high: int) -> Callable[[str], int]:
    """Return the parser of a time in whole seconds, with or without a unit."""
    within = duration(f"{low}s", f"{high}s", plain="s")

    def parse(text: str) -> int:
        whole, rest = divmod(within(text), 1000)
        if rest:
            raise FormatError("expected whole seconds")
        return whole

    return parse


def _milliseconds(text: str, plain: str) -> int | None:
    found = re.fullmatch(r"([0-9]{1,15})[ ]?(ms|s|min|m|h|d)?", text, re.ASCII)
    return None if found is None else int(found[1]) * _UNITS[found[2] or plain]


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class OneOf(Generic[T]):
    """The parser of a setting with fixed choices; ``values`` are by name."""

    values: Mapping[str, T]

    def __call__(self, text: str) -> T:
        """Return the value with a name; raises `FormatError`, which lists the names."""
        if text not in self.values:
            raise FormatError(f"expected one of {', '.join(self.values)}")
        return self.values[text]


def choice(*choices: str) -> OneOf[str]:
    """Return the parser of a fixed set of words."""
    return OneOf({each: each for each in choices})


def boolean(text: str) -> bool:
    """Parse a boolean."""
    if text.lower() not in _BOOLEANS:
        raise FormatError("expected 1 or 0")
    return _BOOLEANS[text.lower()]


def urls(text: str) -> tuple[str, ...]:
    """Parse the URLs of RPC endpoints, separated by commas."""
    urls = tuple(part.strip() for part in text.split(",") if part.strip())
    for number, url in enumerate(urls, 1):
        if not _is_rpc_url(url):
            # The message omits the URL, which may contain an API key.
            raise FormatError(f"entry {number} is not an http, https, ws or wss URL")
    if not urls:
        raise FormatError("expected at least one URL")
    return urls


def _is_rpc_url(url: str) -> bool:
    """Return True if every part in use can be parsed; the port is parsed only on access."""
    try:
        parts = urlsplit(url)
        return parts.scheme in {"http", "https", "ws", "wss"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def sites(urls: Iterable[str]) -> set[str]:
    """Return the hosts of RPC URLs, each in one spelling."""
    return {site_of(urlsplit(url).hostname or "") for url in urls}


def address(text: str) -> Address:
    """Parse the address of an account or contract."""
    if not re.fullmatch(r"0x[0-9a-fA-F]{40}", text, re.ASCII):
        raise FormatError("expected 0x and 40 hexadecimal digits")
    return text.lower()


def cidr(text: str) -> ipaddress.IPv4Network:
    """Parse a private IPv4 network with room for peers.

    Only RFC 1918 networks are accepted: other ranges are in use elsewhere. 100.64.0.0/10 belongs to
    access providers (RFC 6598), and other overlay networks use it.
    """
    network = ipaddress.ip_network(text)
    if not isinstance(network, ipaddress.IPv4Network) or network.prefixlen > 30:
        raise FormatError("expected an IPv4 network of /30 or larger")
    if not any(network.subnet_of(private) for private in _PRIVATE):
        special = next((why for other, why in _SPECIAL.items() if network.overlaps(other)), "public")
        raise FormatError(
            f"expected a network within 10.0.0.0/8, 172.16.0.0/12 or 192.168.0.0/16 (RFC 1918): {network} is "
            f"{special}"
        )
    return network


_PRIVATE: Final = tuple(map(ipaddress.IPv4Network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")))
_SPECIAL: Final = {
    ipaddress.IPv4Network(text): why
    for text, why in {
        "0.0.0.0/8": "this host's own network",
        "100.64.0.0/10": "the access provider's (carrier-grade NAT)",
        "127.0.0.0/8": "loopback",
        "169.254.0.0/16": "link-local",
        "192.0.0.0/24": "reserved for protocols",
        "192.0.2.0/24": "for documentation",
        "198.18.0.0/15": "for benchmarks",
        "198.51.100.0/24": "for documentation",
        "203.0.113.0/24": "for documentation",
        "224.0.0.0/4": "multicast",
        "240.0.0.0/4": "reserved (class E)",
    }.items()
}
"""The purposes of other networks (the IANA's registry of special-purpose addresses)."""


def interface(text: str) -> str:
    """Parse the name of a network interface."""
    # The kernel allows more (dev_valid_name); this rule also suits file names and wg-quick.
    if not re.fullmatch(r"[a-zA-Z0-9_=+.-]{1,15}", text, re.ASCII) or text in {".", "..", "dstack-wg0"}:
        raise FormatError("expected 1 to 15 letters, digits, '_', '=', '+', '.' or '-' (not dstack-wg0)")
    return text


def node_ids(text: str) -> tuple[str, ...]:
    """Parse node ids with commas between, each once; raises `FormatError`."""
    found = tuple(parse_node_id(part.strip()) for part in text.split(",")) if text else ()
    if len(set(found)) < len(found):
        raise FormatError("a node id is repeated")
    return found


def endpoints(text: str) -> dict[str, PeerEndpoint]:
    """Parse ``node=host:port`` pairs, separated by commas.

    An entry that is not a pair is another endpoint of the last node.
    """
    ways: dict[str, list[str]] = {}
    last: list[str] | None = None
    for part in filter(None, map(str.strip, text.split(","))):
        node_id, separator, endpoint = part.partition("=")
        if separator and ":" not in node_id:
            ways[parse_node_id(node_id.strip())] = last = [endpoint.strip()]
        elif last is not None:
            last.append(part)
        else:
            raise FormatError("expected node=host:port pairs, separated by commas")
    return {node_id: PeerEndpoint.parse(",".join(parts), local=True) for node_id, parts in ways.items()}


def template(text: str) -> str:
    """Parse an endpoint with a placeholder for a node id or token id."""
    if not {"{node_id}", "{token_id}"} & set(re.findall(r"\{\w*\}", text)):
        raise FormatError("expected an endpoint with {node_id} or {token_id}")
    PeerEndpoint.parse(fill_template(text, "node", 1), local=True)
    return text


transport: Final = OneOf({each.value: each for each in TransportMode})
stale_policy: Final = OneOf({each.value: each for each in StalePolicy})


def relay_listen(text: str) -> Listen:
    """Parse the URL at which relay connections are accepted."""
    return Listen.parse(text)


def host(text: str) -> str:
    """Parse an address to bind."""
    if text != "localhost":
        ipaddress.ip_address(text)
    return text


def suffix(text: str) -> str:
    """Parse a DNS zone; return it in lower case and without a trailing dot."""
    zone = text.lower().removesuffix(".")
    label = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
    if not re.fullmatch(rf"{label}(?:\.{label})*", zone) or len(zone) > 180:
        raise FormatError("expected a domain of letters, digits and '-', of 180 characters at most")
    return zone


def resolvers(text: str) -> tuple[SocketAddress, ...]:
    """Parse IP addresses, separated by commas; the default port is 53."""
    return tuple(_resolver(part) for part in filter(None, map(str.strip, text.split(","))))


def _resolver(text: str) -> SocketAddress:
    alone = parse_ip(text.removeprefix("[").removesuffix("]"))
    host, port = split_host_port(text) if alone is None else (str(alone), 53)
    if parse_ip(host) is None:
        raise FormatError(f"{text}: expected an IP address, with or without a port")
    return SocketAddress(host, port)


def path(text: str) -> Path:
    """Parse an absolute path."""
    if not text.startswith("/") or "\0" in text:
        raise FormatError("expected an absolute path")
    return Path(text)


def wireguard_key(text: str) -> PrivateKey | str:
    """Parse a private key, `GENERATE` or `DSTACK`."""
    return text if text in {GENERATE, DSTACK} else PrivateKey.parse(text)


def api_token(text: str) -> Secret:
    """Parse a bearer token (RFC 6750, 2.1) that is long enough not to be guessed."""
    if not re.fullmatch(r"[A-Za-z0-9._~+/-]{16,512}=*", text, re.ASCII):
        raise FormatError("expected 16 to 512 characters of A-Z a-z 0-9 . _ ~ + / -")
    return Secret(text)


def open_to(text: str) -> frozenset[str]:
    """Parse the clients that need no token."""
    words = frozenset(part.strip() for part in text.split(","))
    if words == {"none"}:
        return frozenset()
    if not words <= {"loopback", "users", "vpn"}:
        raise FormatError("expected loopback, users or vpn, separated by commas, or none")
    return words


def networks(text: str) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    """Parse IP networks, separated by commas."""
    return tuple(ipaddress.ip_network(part) for part in map(str.strip, text.split(",")) if part)


def contract_key(text: str) -> Secret:
    """Parse a secp256k1 private key; blanks, a byte order mark and ``0X`` are accepted."""
    digits = text.replace("\ufeff", "").strip()
    if not re.fullmatch(r"(?:0[xX])?[0-9a-fA-F]{64}", digits, re.ASCII):
        raise FormatError("expected 64 hexadecimal digits")
    return Secret(digits.replace("0X", "0x") if digits.startswith("0X") else digits)


network: Final = OneOf(NETWORKS)
