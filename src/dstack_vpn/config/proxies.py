"""The proxies for RPC endpoints, from the variables that other programs also read.

The lower-case name takes precedence over the upper-case one, as in curl. These variables are not
dstack-vpn settings: they have no flag and no key in the file.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Final
from urllib.parse import urlsplit

from dstack_vpn.core.chain.proxy import Proxies

PROXY_VARIABLES: Final = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
_EXAMPLE: Final = "http://proxy.example.org:3128"


def proxy_texts(environment: Mapping[str, str], last: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that are set, by upper-case name; those of ``last`` if none is."""
    own = {name: _text(environment, name) for name in PROXY_VARIABLES}
    chosen = own if any(own.values()) else {name: _text(last, name) for name in PROXY_VARIABLES}
    return {name: text for name, text in chosen.items() if text}


def settle_proxies(texts: Mapping[str, str], urls: Iterable[str], problems: list[str]) -> Proxies:
    """Return the proxies, and add errors to ``problems``.

    A variable is checked only if an endpoint of ``urls`` would use its proxy.
    """
    http, https, every = (texts.get(name) for name in PROXY_VARIABLES[:3])
    exempt = tuple(part for part in re.split(r"[,\s]+", texts.get("NO_PROXY", "")) if part)
    proxies = Proxies(_url(http or every), _url(https or every), exempt)
    for url in urls:
        parts = urlsplit(url)
        if (proxy := proxies.of(parts.scheme, parts.hostname or "")) is None:
            continue
        secure = parts.scheme in {"https", "wss"}
        own = ("HTTPS_PROXY", https) if secure else ("HTTP_PROXY", http)
        name = own[0] if own[1] else "ALL_PROXY"
        if (wrong := _wrong(proxy)) is not None and (problem := _problem(name, wrong)) not in problems:
            problems.append(problem)
    return proxies


def _text(variables: Mapping[str, str], name: str) -> str:
    return (variables.get(name.lower()) or variables.get(name) or "").strip()


def _url(text: str | None) -> str | None:
    """Complete the URL of a proxy: one without a scheme is an HTTP proxy."""
    return text if not text or "://" in text else f"http://{text}"


def _wrong(proxy: str) -> str | None:
    """Return the reason that a proxy can't be used, without the URL, which may have a password."""
    try:
        parts = urlsplit(proxy)
        usable = bool(parts.hostname) and parts.port != 0
    except ValueError:
        return "not a URL"
    if parts.scheme.startswith("socks"):
        return "SOCKS proxies are not supported: set an HTTP proxy, or exempt the endpoints with NO_PROXY"
    if parts.scheme not in {"http", "https"} or not usable:
        return "expected the URL of an HTTP proxy"
    return None


def _problem(name: str, wrong: str) -> str:
    return f"{name}: {wrong}. Example: {name}={_EXAMPLE}"
