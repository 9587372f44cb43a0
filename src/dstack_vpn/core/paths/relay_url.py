"""The URLs to which a relay connects, and on which it listens.

    tcp://host:port
    tls://host:port?sni=NAME&ca=FILE&pin=sha256:HEX&via=PROXY      to connect
    tls://host:port?cert=FILE&key=FILE                             to listen

URLs from the chain may name neither files nor proxies of this machine, nor this machine itself.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Final, Self
from urllib.parse import parse_qsl, unquote, urlsplit

from dstack_vpn.core.addresses import bracketed, parse_host_name, parse_ip, split_host_port
from dstack_vpn.core.model import Endpoint
from dstack_vpn.errors import FormatError

SCHEMES: Final = ("tcp", "tls")
PROXY_SCHEMES: Final = ("http", "socks5")
DSTACK: Final = "dstack"
"""The certificate that a dstack guest agent issues."""
URL_LENGTH: Final = 1024
"""Characters at most."""
_PIN: Final = re.compile(r"sha256:([0-9a-fA-F]{64})", re.ASCII)


@dataclass(frozen=True, slots=True)
class RelayUrl:
    """The URL of a relay to connect to: over TCP, or over TLS over TCP."""

    scheme: str
    host: str
    port: int
    sni: str | None = None
    """The server name for SNI and for the certificate check; None: the host."""
    ca: str | None = None
    """A PEM file with the only trusted authorities; None: the system's."""
    pins: frozenset[bytes] = frozenset()
    """SHA-256 digests of accepted SubjectPublicKeyInfos (RFC 7469), in place of authorities."""
    via: str | None = field(default=None, repr=False)
    """The URL of a proxy, which may contain a password."""

    @classmethod
    def parse(cls, text: str, *, local: bool = True) -> Self:
        """Parse a URL; raises `FormatError` that names the malformed part.

        Without ``local`` the text is another member's: it may name neither files nor proxies, nor
        an address that can't be another machine's.
        """
        known = ("sni", "ca", "pin", "via") if local else ("sni", "pin")
        scheme, host, port, options = _split(text, known, reachable=not local)
        if scheme != "tls" and (wrong := sorted({"sni", "ca", "pin"} & options.keys())):
            raise FormatError(f"relay URL: {wrong[0]} has a meaning with tls:// only")
        sni = options.get("sni")
        pins = frozenset(_pin(part) for part in options.get("pin", "").split(",") if part)
        return cls(
            scheme,
            host,
            port,
            sni=None if sni is None else parse_host_name(sni),
            ca=_file("ca", options),
            pins=pins,
            via=_proxy(options.get("via")),
        )

    @property
    def tls(self) -> bool:
        """Return whether the connection is encrypted."""
        return self.scheme == "tls"

    @property
    def name(self) -> str:
        """Return scheme, host and port, for logs and metrics."""
        return f"{self.scheme}://{bracketed(self.host)}:{self.port}"

    def __str__(self) -> str:
        pins = ",".join(sorted(f"sha256:{pin.hex()}" for pin in self.pins))
        options = {"sni": self.sni, "ca": self.ca, "pin": pins or None, "via": self.via and "***"}
        query = "&".join(f"{key}={value}" for key, value in options.items() if value is not None)
        return f"{self.name}?{query}" if query else self.name


@dataclass(frozen=True, slots=True)
class Listen:
    """The URL of a relay to listen on."""

    scheme: str
    host: str
    port: int
    cert: str | None = None
    """A PEM file with the certificate chain, or `DSTACK`; None: a self-made certificate."""
    key: str | None = None
    """A PEM file with its key; None: in the same file."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a URL whose host is an IP address; raises `FormatError` that names the problem."""
        scheme, host, port, options = _split(text, ("cert", "key"), reachable=False, lowest=0)
        if scheme != "tls" and options:
            raise FormatError(f"relay URL: {min(options)} has a meaning with tls:// only")
        if parse_ip(host) is None:
            raise FormatError("relay URL: to listen, give an IP address, such as tls://0.0.0.0:443")
        cert, key = options.get("cert"), _file("key", options)
        if key is not None and cert in {None, DSTACK}:
            raise FormatError("relay URL: key without a cert file")
        return cls(scheme, host, port, cert if cert == DSTACK else _file("cert", options), key)

    @property
    def tls(self) -> bool:
        """Return whether connections are encrypted."""
        return self.scheme == "tls"

    @property
    def name(self) -> str:
        """Return scheme, address and port."""
        return f"{self.scheme}://{bracketed(self.host)}:{self.port}"


def _split(
    text: str, known: Collection[str], *, reachable: bool, lowest: int = 1
) -> tuple[str, str, int, Mapping[str, str]]:
    """Return scheme, host, port and options; each option must be known and given once."""
    if len(text) > URL_LENGTH or not text.isascii() or not text.isprintable() or " " in text:
        raise FormatError(f"relay URL: expected at most {URL_LENGTH} printable characters without spaces")
    scheme, separator, rest = text.partition("://")
    if not separator or scheme not in SCHEMES:
        raise FormatError("relay URL: expected tcp://host:port or tls://host:port")
    authority, _, query = rest.partition("?")
    if "/" in authority or "@" in authority or "#" in rest:
        raise FormatError("relay URL: nothing but options (?name=value) can follow host:port")
    if reachable:
        endpoint = Endpoint.parse(authority)
        return scheme, endpoint.host, endpoint.port, _options(query, known)
    host, port = split_host_port(authority, lowest=lowest)
    return scheme, host, port, _options(query, known)


def _options(query: str, known: Collection[str]) -> Mapping[str, str]:
    # A plus sign is literal here, not a space.
    try:
        pairs = parse_qsl(query.replace("+", "%2B"), strict_parsing=True) if query else []
    except ValueError:
        raise FormatError("relay URL: expected options as ?name=value&name=value") from None
    options = dict(pairs)
    if strange := sorted(options.keys() - set(known)):
        raise FormatError(f"relay URL: {strange[0]!r} is not an option; the options are {', '.join(known)}")
    if len(options) != len(pairs):
        raise FormatError("relay URL: an option is given twice")
    return options


def _pin(text: str) -> bytes:
    match = _PIN.fullmatch(text)
    if not match:
        raise FormatError("relay URL: pin: expected sha256: and 64 hexadecimal digits")
    return bytes.fromhex(match[1])


def _file(name: str, options: Mapping[str, str]) -> str | None:
    path = options.get(name)
    if path is not None and not path.startswith("/"):
        raise FormatError(f"relay URL: {name}: expected an absolute path")
    return path


def _proxy(text: str | None) -> str | None:
    if text is None:
        return None
    try:
        parts = urlsplit(text)
        complete = parts.scheme in PROXY_SCHEMES and parts.hostname and parts.port
    except ValueError:
        complete = False
    if not complete:
        # The message does not contain the URL, which may contain a password.
        raise FormatError("relay URL: via: expected http://host:port or socks5://host:port")
    return text


def has_password(urls: str) -> bool:
    """Return whether relay URLs contain a proxy's user or password, in any encoding."""
    return any("@" in unquote(part) for part in urls.split("via=")[1:])
