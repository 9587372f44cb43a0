"""An RPC endpoint's URL, which is a secret: providers put API keys into paths, queries and user names.

Only `RpcUrl.name` (scheme, host, port) is for people; `redact` takes the rest out of any text that an
endpoint or a library quotes back at us.
"""

import re
from dataclasses import dataclass, field
from typing import Final, Self
from urllib.parse import SplitResult, unquote, urlsplit

from dstack_vpn.errors import FormatError

_SCHEMES: Final = frozenset({"http", "https", "ws", "wss"})
_MIN_SECRET: Final = 6
"""Characters: shorter parts of a path (``v2``, ``rpc``, ``base``) are words, not keys."""


@dataclass(frozen=True, slots=True)
class RpcUrl:
    """A parsed endpoint; its repr and its name never show credentials."""

    name: str
    raw: str = field(repr=False)
    streams: bool
    """Whether it is a WebSocket, over which the endpoint can speak first."""
    secrets: tuple[str, ...] = field(repr=False, default=())
    site: tuple[str, int] = ("", 0)
    """Host and port: whoever answers there is one witness, by whichever scheme and key it is asked."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Accept ``http``, ``https``, ``ws`` and ``wss``; raises `FormatError` without quoting the text."""
        try:
            parts = urlsplit(text.strip())
            host, port = parts.hostname, parts.port
        except ValueError:
            raise FormatError("RPC URL: not a URL") from None
        if parts.scheme not in _SCHEMES or not host:
            raise FormatError("RPC URL: expected http, https, ws or wss, such as wss://rpc.example.org/key")
        bracketed = f"[{host}]" if ":" in host else host
        name = f"{parts.scheme}://{bracketed}" + (f":{port}" if port else "")
        site = host.lower(), port or (443 if parts.scheme in {"https", "wss"} else 80)
        return cls(name, text.strip(), parts.scheme.startswith("ws"), _secrets(parts), site)

    def redact(self, text: str) -> str:
        """The text without any part of the URL that may be a credential."""
        for secret in self.secrets:
            text = text.replace(secret, "***")
        return text


def _secrets(parts: SplitResult) -> tuple[str, ...]:
    """Every piece of the URL that may be a credential, longest first."""
    words = [parts.username or "", parts.password or ""]
    words += parts.path.split("/") + re.split("[&=;]", parts.query) + [parts.fragment]
    found = {form for word in words for form in (word, unquote(word)) if len(form) >= _MIN_SECRET}
    return tuple(sorted(found, key=len, reverse=True))
