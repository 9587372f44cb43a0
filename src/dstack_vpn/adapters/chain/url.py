"""An RPC endpoint's URL, which is a secret: providers put API keys into paths, queries, user and host names.

Only `RpcUrl.name` (scheme, host, port) is for people; `redact` takes the rest out of any text that an
endpoint or a library quotes back at us. The proxy on the way to an endpoint belongs to its URL, so that its
password is redacted with the endpoint's.

A host name keeps its last two labels and those that look like words (``base-mainnet``). Every other label may
be a key: it is shown as ``...`` with four digits of its hash, which keep two endpoints apart.
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
"""Characters: shorter parts of a path (``v2``, ``rpc``, ``base``) are words, not keys."""
_MIN_PASSWORD: Final = 3
"""Characters: a shorter user name or query value is not looked for, for it would be found everywhere."""
_WORD: Final = re.compile(
    r"(?:[a-z]{1,15}[0-9]{0,2}|[0-9]{1,4})(?:[-_](?:[a-z]{1,15}[0-9]{0,2}|[0-9]{1,4}))*"
)
_LOCAL: Final = frozenset({"localhost", "local", "internal", "lan", "home", "test"})
"""Top-level names below which anybody makes names."""


@dataclass(frozen=True, slots=True)
class RpcUrl:
    """A parsed endpoint; its repr and its name never show credentials."""

    name: str
    raw: str = field(repr=False)
    streams: bool
    """True for a WebSocket, over which the endpoint can send unasked."""
    secrets: tuple[str, ...] = field(repr=False, default=())
    """Whatever of it may be a credential, in all forms in which a text may quote it."""
    redactor: Redactor = field(repr=False, compare=False, default_factory=lambda: Redactor(()))
    host: str = field(repr=False, default="")
    site: str = field(repr=False, default="")
    """The host in one spelling: whatever answers there is one endpoint, by any scheme, port and key."""
    proxy: str | None = field(repr=False, default=None)
    """The HTTP proxy through which the endpoint is reached; its URL may have a password."""

    @classmethod
    def parse(cls, text: str, proxies: Proxies = DIRECT) -> Self:
        """Accept ``http``, ``https``, ``ws`` and ``wss``; raises `FormatError` without quoting the text."""
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
        return cls(name, text.strip(), streams, redactor.forms, redactor, *named, proxy)

    @property
    def contact(self) -> tuple[str, str]:
        """The host that we connect to, the endpoint's or its proxy's, and that host's name for people."""
        host = self.host if self.proxy is None else (urlsplit(self.proxy).hostname or "")
        return host, _shown(host)

    @property
    def way(self) -> str:
        """The endpoint's name, and the proxy's if there is one."""
        if self.proxy is None:
            return self.name
        parts = urlsplit(self.proxy)
        port = f":{parts.port}" if parts.port else ""
        return f"{self.name} through the proxy {self.contact[1]}{port}"

    def redact(self, text: str) -> str:
        """The text without any part of the URL that may be a credential."""
        return self.redactor.redact(text)


def _shown(host: str) -> str:
    """A host name without the labels that may be keys."""
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
    """The URL as aiohttp sends it, with some of its characters encoded or decoded."""
    try:
        return urlsplit(str(yarl.URL(text.strip())))
    except ValueError:
        return urlsplit("")  # it can't be sent


def _secrets(parts: SplitResult) -> list[str]:
    """Return every piece of the URL except its host that may be a credential."""
    user, password = parts.username or "", parts.password or ""
    values = [pair.partition("=")[2] or pair for pair in re.split("[&;]", parts.query)]
    found = [word for word in (user, password, *values) if len(word) >= _MIN_PASSWORD]
    found += [word for word in (*parts.path.split("/"), parts.fragment) if len(word) >= _MIN_SECRET]
    if user or password:
        found.append(f"{unquote(user)}:{unquote(password)}")
    return found
