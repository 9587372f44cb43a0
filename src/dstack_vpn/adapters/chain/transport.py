"""The transport of JSON-RPC: one connection to one endpoint, over `websocket` or `http`.

A transport does not interpret results. It matches replies to requests, gives every exchange a
deadline, and translates library errors into the error tree. `caller` retries.
"""

from collections.abc import Mapping, Sequence
from email.utils import parsedate_to_datetime
from typing import Final, Protocol, TypeAlias

import aiohttp

from dstack_vpn.adapters.chain.faults import classify
from dstack_vpn.adapters.chain.jsonrpc import Json, Notification, Request, Response, excerpt
from dstack_vpn.adapters.chain.url import RpcUrl
from dstack_vpn.errors import ChainError, EndpointError, RangeError, RetryError

OPEN_TIMEOUT: Final = 10.0
"""Seconds for name resolution, TCP, TLS and the WebSocket handshake together."""

LONGEST_RETRY_AFTER: Final = 60.0
"""The limit in seconds of a pause that ``Retry-After`` requests."""

_TRANSIENT: Final = frozenset({408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529})
_PROXY_AUTHENTICATION: Final = 407
_TOO_LARGE: Final = 413

Outcome: TypeAlias = Json | ChainError
"""The result of a call, or its error."""


class Transport(Protocol):
    """One connection."""

    url: RpcUrl
    failure: ChainError | None
    """The reason why the connection is unusable. None while it works."""

    async def exchange(self, requests: Sequence[Request], timeout: float) -> list[Outcome]:
        """Send the requests together and return their outcomes in order.

        Raises `EndpointError` or `RetryError` for a failure of the whole exchange, at the latest
        after ``timeout`` seconds.
        """

    async def notification(self, timeout: float) -> Notification | None:
        """Return the next notification, or None after ``timeout`` seconds. Raises `ChainError`.

        Only WebSockets deliver notifications.
        """


def outcome(reply: Response, request: Request, url: RpcUrl) -> Outcome:
    """Return the result of a reply, or its error without credentials."""
    if reply.fault is None:
        return reply.result
    text = excerpt(f"{reply.fault.message} {reply.fault.detail}", url.redactor)
    return classify(reply.fault, request.method, text)


def unreachable(error: aiohttp.ClientError | OSError | ValueError) -> EndpointError:
    """Return the error for a connection that failed or was lost.

    aiohttp's messages often quote the URL. Therefore only the error's type and the system's reason
    are kept.
    """
    if isinstance(error, TimeoutError):
        return EndpointError("the endpoint did not reply in time")
    if isinstance(error, aiohttp.ClientProxyConnectionError):
        reason = getattr(error, "strerror", None) or "no connection"
        return EndpointError(
            f"the proxy can't be reached: {excerpt(str(reason))}; check HTTPS_PROXY and NO_PROXY"
        )
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return by_proxy(error.status)
    reason = getattr(error, "strerror", None) or type(error).__name__
    return EndpointError(
        f"the endpoint can't be reached: {excerpt(str(reason))}; check RPC_URL and the network"
    )


def by_proxy(status: int) -> EndpointError:
    """Return the error for a proxy's refusal to connect to the endpoint."""
    return EndpointError(
        f"the proxy refused with HTTP status {status}; check HTTPS_PROXY, its user and password, and NO_PROXY"
    )


def lost(error: aiohttp.ClientError | OSError | ValueError) -> ChainError:
    """Return the error for a connection that was interrupted.

    An established connection that was closed may have been idle too long. That is a `RetryError`,
    all else as in `unreachable`.
    """
    if isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientPayloadError | ConnectionResetError):
        return RetryError("the endpoint closed the connection")
    return unreachable(error)


def refused(status: int, headers: Mapping[str, str] | None) -> ChainError:
    """Return the error for an HTTP status other than success."""
    if status == _PROXY_AUTHENTICATION:
        return by_proxy(status)
    message = f"the endpoint replied with HTTP status {status}"
    if status == _TOO_LARGE:
        return RangeError(message)
    if status in _TRANSIENT:
        return RetryError(message, retry_after(headers or {}))
    return EndpointError(message)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds of the ``Retry-After`` header (RFC 9110, 10.2.3), or None.

    A date is compared with the endpoint's ``Date`` header, so that no clock needs to be right.
    """
    value = headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return min(float(value[:9]), LONGEST_RETRY_AFTER)
    try:
        pause = parsedate_to_datetime(value) - parsedate_to_datetime(headers.get("Date", ""))
    except (TypeError, ValueError, OverflowError):
        return None
    return min(max(pause.total_seconds(), 0.0), LONGEST_RETRY_AFTER)
