"""The transport of JSON-RPC: one connection to one endpoint, over WebSocket (`websocket`) or HTTP (`http`).

A transport knows nothing of blocks. It matches replies to requests, gives every exchange a deadline, and
translates whatever can go wrong on the way into the error tree; retries are `caller`'s.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from email.utils import parsedate_to_datetime
from typing import Final, Protocol, TypeAlias

import aiohttp

from dstack_vpn.adapters.chain.faults import classify
from dstack_vpn.adapters.chain.jsonrpc import Json, Notification, Reply, Request, excerpt
from dstack_vpn.adapters.chain.url import RpcUrl
from dstack_vpn.errors import ChainError, EndpointError, RangeError, RetryError

OPEN_TIMEOUT: Final = 10.0
"""Seconds for name resolution, TCP, TLS and the WebSocket handshake together."""

LONGEST_WISH: Final = 60.0
"""Seconds: more than that no ``Retry-After`` can keep us away."""

_SAID_LATER: Final = frozenset({408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529})
_PROXY_AUTHENTICATION: Final = 407
_TOO_LARGE: Final = 413

Outcome: TypeAlias = Json | ChainError
"""A call's result, or the error that it alone met."""


class Transport(Protocol):
    """One connection."""

    url: RpcUrl
    failure: ChainError | None
    """The reason why the connection is unusable; None while it works."""

    async def exchange(self, requests: Sequence[Request], timeout: float) -> list[Outcome]:
        """Send them together and return what each came to, in order.

        Raises `EndpointError` or `RetryError` for what befell all of them, at the latest after ``timeout``
        seconds.
        """

    async def notification(self, timeout: float) -> Notification | None:
        """The next notification; None after ``timeout`` seconds without one. Raises `ChainError`.

        Only WebSockets deliver any.
        """


Connect: TypeAlias = Callable[[RpcUrl], AbstractAsyncContextManager[Transport]]


def outcome(reply: Reply, request: Request, url: RpcUrl) -> Outcome:
    """A reply as its result, or as the error it means, with no credential in it."""
    if reply.fault is None:
        return reply.result
    said = excerpt(f"{reply.fault.message} {reply.fault.detail}", url.redactor)
    return classify(reply.fault, request.method, said)


def unreachable(error: aiohttp.ClientError | OSError | ValueError) -> EndpointError:
    """Return the reason why a connection failed or was lost, in our words.

    aiohttp's own often quote the URL, hence the type and the system's reason are all that is kept.
    """
    if isinstance(error, TimeoutError):
        return EndpointError("the endpoint did not answer in time")
    if isinstance(error, aiohttp.ClientProxyConnectionError):
        reason = getattr(error, "strerror", None) or "no connection"
        return EndpointError(
            f"the proxy can't be reached: {excerpt(str(reason))}; check HTTPS_PROXY and NO_PROXY"
        )
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return by_proxy(error.status)
    reason = getattr(error, "strerror", None) or type(error).__name__
    return EndpointError(
        f"the endpoint can't be reached: {excerpt(str(reason))}; check RPC_URL and the way there"
    )


def by_proxy(status: int) -> EndpointError:
    """A proxy's refusal to connect to the endpoint."""
    return EndpointError(
        f"the proxy refused with HTTP status {status}; check HTTPS_PROXY, its user and password, and NO_PROXY"
    )


def lost(error: aiohttp.ClientError | OSError | ValueError) -> ChainError:
    """Like `unreachable`, but a connection that was made and then cut may just have been idle too long."""
    if isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientPayloadError | ConnectionResetError):
        return RetryError("the endpoint cut the connection")
    return unreachable(error)


def refused(status: int, headers: Mapping[str, str] | None) -> ChainError:
    """Return the error for an HTTP status other than success."""
    if status == _PROXY_AUTHENTICATION:
        return by_proxy(status)
    sentence = f"the endpoint answered with HTTP status {status}"
    if status == _TOO_LARGE:
        return RangeError(sentence)
    if status in _SAID_LATER:
        return RetryError(sentence, retry_after(headers or {}))
    return EndpointError(sentence)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the endpoint asks us to stay away (RFC 9110, 10.2.3), or None.

    A date is taken relative to the endpoint's own ``Date``, so that no clock needs to be right.
    """
    wish = headers.get("Retry-After", "").strip()
    if wish.isascii() and wish.isdigit():
        return min(float(wish[:9]), LONGEST_WISH)
    try:
        pause = parsedate_to_datetime(wish) - parsedate_to_datetime(headers.get("Date", ""))
    except (TypeError, ValueError, OverflowError):
        return None
    return min(max(pause.total_seconds(), 0.0), LONGEST_WISH)
