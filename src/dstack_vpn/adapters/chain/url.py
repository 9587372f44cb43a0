"""The URL of an RPC endpoint, which is a secret.

Providers put API keys into paths, queries, user names and host names. Only `RpcUrl.name` (scheme,
host, port) may be shown. `redact` removes the rest from any text in which an endpoint or a library
quotes the URL. The proxy for an endpoint is part of its URL object, so that the proxy's password is
redacted too.

The name of a host keeps its last two labels and labels that look like words (``base-mainnet``).
Every other label may be a key. It is shown as ``...`` with four digits of its hash, which
distinguish two endpoints.
"""

import hashlib
import ipaddress
import re
from dataclasses import dataclass, field
from typing import Final, Self
from urllib.parse import SplitResult, unquote, urlsplit

import yarl

from dstack_vpn.adapters.redact import Redactor
from dstack_vpn.core.chain.proxy import DIRECT, Proxies
from dstack_vpn.core.chain.site import site_of
from dstack_vpn.errors import FormatError

_SCHEMES: Final = frozenset({"http", "https", "ws", "wss"})
_MIN_SECRET: Final = 6
"""Characters. Shorter parts of a path (``v2``, ``rpc``, ``base``) are words, not keys."""
_MIN_PASSWORD: Final = 3
"""Characters. A shorter user name or query value is not redacted, because it would match
everywhere."""
_WORD: Final = re.compile(
    r"(?:[a-z]{1,15}[0-9]{0,2}|[0-9]{1,4})(?:[-_](?:[a-z]{1,15}[0-9]{0,2}|[0-9]{1,4}))*"
)
_LOCAL: Final = frozenset({"localhost", "local", "internal", "lan", "home", "test"})
"""Top-level names of private networks, whose names are not registered."""


@dataclass(frozen=True, slots=True)
class RpcUrl:
    """A parsed endpoint. Its repr and its name contain no credentials."""

    name: str
    raw: str = field(repr=False)
    streams: bool
    """True for a WebSocket, over which the endpoint sends notifications."""
    secrets: tuple[str, ...] = field(repr=False, default=())
    """The parts that may be credentials, in all forms in which a text may quote them."""
    redactor: Redactor = field(repr=False, compare=False, default_factory=lambda: Redactor(()))
    host: str = field(repr=False, default="")
    site: str = field(repr=False, default="")
    """The host in one spelling. All URLs of a host are one endpoint, with any scheme, port and
    key."""
    proxy: str | None = field(repr=False, default=None)
    """The URL of the HTTP proxy for the endpoint, which may contain a password."""
    mark: int | None = None
    """The mark of the packets to the endpoint, by which they leave beside an exit."""

    @classmethod
    def parse(cls, text: str, proxies: Proxies = DIRECT, mark: int | None = None) -> Self:
        """Parse an ``http``, ``https``, ``ws`` or ``wss`` URL.

        Raises `FormatError` without quoting the text.
        """
        try:
            parts = urlsplit(text.strip())
            host, port = parts.hostname, parts.port
        except ValueError:
            raise FormatError("RPC URL: not a URL") from None
        if parts.scheme not in _SCHEMES or not host:
            raise FormatError("RPC URL: expected http, https, ws or wss, such as wss://rpc.example.org/key")
        shown = _shown(host.lower())
        bracketed = f"[{host}]" if ":" in host else shown
        name = f"{parts.scheme}://{bracketed}" + (f":{port}" if port else "")
        hidden = [label for label in host.lower().split(".") if shown != host.lower() and _is_key(label)]
        proxy = proxies.of(parts.scheme, host)
        passwords = [] if proxy is None else _secrets(urlsplit(proxy))
        redactor = Redactor([*_secrets(parts), *_secrets(_as_sent(text)), *hidden, *passwords])
        streams = parts.scheme.startswith("ws")
        named = host.lower(), site_of(host)
        return cls(name, text.strip(), streams, redactor.forms, redactor, *named, proxy, mark)

    @property
    def contact(self) -> tuple[str, str]:
        """The host to connect to, the endpoint's or its proxy's, and its name without keys."""
        host = self.host if self.proxy is None else (urlsplit(self.proxy).hostname or "")
        return host, _shown(host)

    @property
    def way(self) -> str:
        """The endpoint's name, followed by the proxy's if there is one."""
        if self.proxy is None:
            return self.name
        parts = urlsplit(self.proxy)
        port = f":{parts.port}" if parts.port else ""
        return f"{self.name} through the proxy {self.contact[1]}{port}"

    def redact(self, text: str) -> str:
        """Return the text without the parts of the URL that may be credentials."""
        return self.redactor.redact(text)


def _shown(host: str) -> str:
    """Return a host name with each label that may be a key hidden."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        labels = host.split(".")
        kept = 1 if labels[-1] in _LOCAL else 2
        first = max(len(labels) - kept, 0)
        return ".".join([*(_hide(label) for label in labels[:first]), *labels[first:]])
    return host


def _is_key(label: str) -> bool:
    return not _WORD.fullmatch(label)


def _hide(label: str) -> str:
    if not _is_key(label):
        return label
    digest = hashlib.sha256(label.encode("utf-8", "surrogateescape")).hexdigest()
    return f"...{digest[:4]}"


def _as_sent(text: str) -> SplitResult:
    """Parse the URL as aiohttp sends it, with some characters encoded or decoded."""
    try:
        return urlsplit(str(yarl.URL(text.strip())))
    except ValueError:
        return urlsplit("")  # aiohttp can't send it either


def _secrets(parts: SplitResult) -> list[str]:
    """Return every part of the URL, except its host, that may be a credential."""
    user, password = parts.username or "", parts.password or ""
    values = [pair.partition("=")[2] or pair for pair in re.split("[&;]", parts.query)]
    found = [word for word in (user, password, *values) if len(word) >= _MIN_PASSWORD]
    found += [word for word in (*parts.path.split("/"), parts.fragment) if len(word) >= _MIN_SECRET]
    if user or password:
        found.append(f"{unquote(user)}:{unquote(password)}")
    return found
