"""The configuration file of wg-quick(8), as text in and out.

The daemon writes it for operators, and for use without the daemon: ``wg-quick up`` sets up the same
tunnel. The parser accepts little more than the daemon writes: no hooks, no DNS, no preshared keys.
The order is fixed, so that equal sets give equal files.
"""

import base64
import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, TypeVar

from dstack_vpn.core.addresses import split_host_port
from dstack_vpn.core.model import Cidr, Peer, SocketAddress, TokenId, parse_node_id
from dstack_vpn.core.wireguard.keys import PrivateKey, PublicKey
from dstack_vpn.errors import FormatError

_T = TypeVar("_T")

HEADER: Final = "# Written by dstack-vpn, which replaces it: edits are lost."
"""The first line, by which the daemon recognizes its own file."""

_COMMENT: Final = re.compile(r"# (\S+) \(token ([0-9]{1,78})\)", re.ASCII)
_DIGITS: Final = re.compile(r"[0-9]{1,5}", re.ASCII)
_HIGHEST: Final = 65535


@dataclass(frozen=True, slots=True)
class ConfPeer:
    """A peer, and its node in the registry, from the comment above it."""

    peer: Peer
    node_id: str | None = None
    token_id: TokenId | None = None
    """Set if and only if ``node_id`` is."""


@dataclass(frozen=True, slots=True)
class WgConfig:
    """The content of a configuration file."""

    private_key: PrivateKey | None
    """None: it is not on the disk, and must be added before wg-quick can use the file."""
    listen_port: int
    """0: not set."""
    addresses: frozenset[Cidr] = frozenset()
    mtu: int | None = None
    """Bytes."""
    peers: tuple[ConfPeer, ...] = field(default=())


# -- writing ---------------------------------------------------------------------------------------


def render(config: WgConfig, private_key: str | None = None) -> str:
    """Return the file's text; ``private_key`` replaces the key in a text for display.

    Raises `FormatError` for a value that could break out of its line, so nothing malformed is
    written.
    """
    key = None if config.private_key is None else _key_text(config.private_key)
    if private_key is not None and key is not None:
        key = _check_line(private_key)
    peers = (render_peer(peer) for peer in sorted(config.peers, key=peer_order))
    return "\n".join((_text(_interface(config, key)), *peers))


def render_peer(entry: ConfPeer) -> str:
    """Return the text of a peer's section. Raises `FormatError`, like `render`."""
    return _text(_peer(entry))


def _text(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def peer_order(peer: ConfPeer) -> tuple[bool, int, bytes]:
    """Return the sort key of a peer's section."""
    return peer.token_id is None, peer.token_id or 0, peer.peer.public_key


def _interface(config: WgConfig, private_key: str | None) -> Iterator[str]:
    yield HEADER
    yield "[Interface]"
    if private_key is None:
        yield "# The private key is not kept on this disk."
    else:
        yield f"PrivateKey = {private_key}"
    if config.listen_port:
        yield f"ListenPort = {_check_number(config.listen_port)}"
    for address in _sorted(config.addresses):
        yield f"Address = {_parse_address(address)}"
    if config.mtu is not None:
        yield f"MTU = {_check_number(config.mtu)}"


def _peer(entry: ConfPeer) -> Iterator[str]:
    peer = entry.peer
    if entry.node_id is not None and entry.token_id is not None:
        yield f"# {parse_node_id(entry.node_id)} (token {int(entry.token_id)})"
    yield "[Peer]"
    yield f"PublicKey = {peer.public_key}"
    if peer.allowed_ips:
        yield f"AllowedIPs = {', '.join(_parse_prefix(cidr) for cidr in _sorted(peer.allowed_ips))}"
    if peer.endpoint is not None:
        yield f"Endpoint = {_parse_endpoint(str(peer.endpoint))}"
    if peer.keepalive:
        yield f"PersistentKeepalive = {_check_number(peer.keepalive)}"


def _sorted(cidrs: Iterable[Cidr]) -> list[Cidr]:
    """Sort IPv4 before IPv6, each by address."""
    return sorted(cidrs, key=lambda cidr: (":" in cidr, _sort_key(cidr)))


def _sort_key(cidr: Cidr) -> tuple[int, int]:
    try:
        interface = ipaddress.ip_interface(cidr)
    except ValueError:
        raise FormatError("configuration: not an address prefix") from None
    return int(interface.ip), interface.network.prefixlen


def _key_text(key: PrivateKey) -> str:
    return base64.b64encode(key.reveal()).decode("ascii")


def _check_line(text: str) -> str:
    if not text.isascii() or not text.isprintable():
        raise FormatError("configuration: a value with characters that no line may have")
    return text


def _check_number(number: int) -> int:
    if not 0 <= number <= _HIGHEST:
        raise FormatError(f"configuration: expected a number from 0 to {_HIGHEST}")
    return number


# -- reading ---------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Section:
    """A section of the file: its first line, the comment above it, and its values."""

    name: str
    line: int
    comment: str | None
    values: dict[str, list[str]] = field(default_factory=dict)

    def many(self, key: str) -> list[str]:
        """Return the parts of a value that may be a list and may be given more than once."""
        return [part.strip() for value in self.values.get(key, ()) for part in value.split(",")]

    def one(self, key: str) -> str | None:
        values = self.values.get(key, [])
        if len(values) > 1:
            raise FormatError(f"{key} is given more than once")
        return values[0] if values else None

    def number(self, key: str) -> int | None:
        value = self.one(key)
        if value is None:
            return None
        if key == "PersistentKeepalive" and value == "off":
            return 0
        if not _DIGITS.fullmatch(value):
            raise FormatError(f"{key}: expected a number from 0 to {_HIGHEST}")
        return _check_number(int(value))


_KEYS: Final = {
    "interface": {
        "privatekey": "PrivateKey",
        "listenport": "ListenPort",
        "address": "Address",
        "mtu": "MTU",
    },
    "peer": {
        "publickey": "PublicKey",
        "allowedips": "AllowedIPs",
        "endpoint": "Endpoint",
        "persistentkeepalive": "PersistentKeepalive",
    },
}


def parse(text: str) -> WgConfig:
    """Parse the text of `render`, also after manual edits; raises `FormatError` naming the line.

    Like wg(8) it accepts keys in any case and order, and comments anywhere.
    """
    sections = list(_sections(text))
    interfaces = [section for section in sections if section.name == "interface"]
    if len(interfaces) != 1:
        raise FormatError("configuration: expected exactly one [Interface]")
    peers = [_located(section, _read_peer) for section in sections if section.name == "peer"]
    if len({entry.peer.public_key for entry in peers}) != len(peers):
        raise FormatError("configuration: a peer is given more than once")
    return _located(interfaces[0], lambda section: _read_interface(section, tuple(peers)))


def _sections(text: str) -> Iterator[_Section]:
    section: _Section | None = None
    comment: str | None = None
    for number, raw in enumerate(text.split("\n"), 1):
        line = raw.partition("#")[0].strip()
        if raw.startswith("#"):
            comment = raw.rstrip()
        elif line.startswith("["):
            if section is not None:
                yield section
            section = _Section(_section_name(line, number), number, comment)
            comment = None
        elif line:
            _take(section, line, number)
            comment = None
    if section is not None:
        yield section


def _section_name(line: str, number: int) -> str:
    name = line.lower().removeprefix("[").removesuffix("]")
    if name not in _KEYS or not line.endswith("]"):
        raise FormatError(f"configuration, line {number}: expected [Interface] or [Peer]")
    return name


def _take(section: _Section | None, line: str, number: int) -> None:
    key, equals, value = line.partition("=")
    name = None if section is None else _KEYS[section.name].get(key.strip().lower())
    if section is None or name is None or not equals:
        raise FormatError(f"configuration, line {number}: not a setting that dstack-vpn writes")
    section.values.setdefault(name, []).append(value.strip())


def _located(section: _Section, read: Callable[[_Section], _T]) -> _T:
    """Read a section; raises `FormatError` with its first line.

    The error never quotes the text.
    """
    try:
        return read(section)
    except FormatError as error:
        raise FormatError(f"configuration, section at line {section.line}: {error}") from None


def _read_interface(section: _Section, peers: tuple[ConfPeer, ...]) -> WgConfig:
    key = section.one("PrivateKey")
    return WgConfig(
        None if key is None else PrivateKey.parse(key),
        section.number("ListenPort") or 0,
        frozenset(map(_parse_address, section.many("Address"))),
        section.number("MTU"),
        peers,
    )


def _read_peer(section: _Section) -> ConfPeer:
    key, endpoint = section.one("PublicKey"), section.one("Endpoint")
    if key is None:
        raise FormatError("PublicKey is missing")
    peer = Peer(
        PublicKey.parse(key),
        frozenset(map(_parse_prefix, section.many("AllowedIPs"))),
        None if endpoint is None else _parse_endpoint(endpoint),
        section.number("PersistentKeepalive") or 0,
    )
    named = _COMMENT.fullmatch(section.comment or "")
    if named is None:
        return ConfPeer(peer)
    return ConfPeer(peer, parse_node_id(named[1]), int(named[2]))


def _parse_address(text: str) -> Cidr:
    """Parse an interface's own address, which may have bits past its prefix's length."""
    return _canonical(text, ipaddress.ip_interface, "Address: expected one such as 10.77.0.2/32")


def _parse_prefix(text: str) -> Cidr:
    return _canonical(text, ipaddress.ip_network, "AllowedIPs: expected prefixes such as 10.77.0.3/32")


def _parse_endpoint(text: str) -> SocketAddress:
    """Parse a resolved address; accepts more than `Endpoint.parse`: a device may have any."""
    problem = "Endpoint: expected an address and a port, such as 192.0.2.1:51820"
    try:
        host, port = split_host_port(text)
    except FormatError:
        raise FormatError(problem) from None
    return SocketAddress(_canonical(host, ipaddress.ip_address, problem), port)


def _canonical(text: str, read: Callable[[str], object], problem: str) -> str:
    """Return the canonical text of an address or prefix.

    Zones are refused, since they may contain any character.
    """
    try:
        found = str(read(text))
    except ValueError:
        raise FormatError(problem) from None
    if "%" in found:
        raise FormatError(problem)
    return found
