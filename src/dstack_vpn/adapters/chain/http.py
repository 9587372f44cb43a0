"""JSON-RPC over HTTP: one POST per exchange, with several calls as a batch.

An endpoint that does not support batches receives single calls, several at a time.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

import aiohttp

from dstack_vpn.adapters.bodies import BodyTooLongError, read_bounded
from dstack_vpn.adapters.chain.connector import connector
from dstack_vpn.adapters.chain.jsonrpc import (
    MAX_MESSAGE,
    Notification,
    Request,
    Response,
    decode,
    encode_one,
    joined,
)
from dstack_vpn.adapters.chain.traffic import Traffic
from dstack_vpn.adapters.chain.transport import OPEN_TIMEOUT, Outcome, lost, outcome, refused
from dstack_vpn.adapters.chain.url import RpcUrl
from dstack_vpn.core.chain.usage import shares
from dstack_vpn.errors import CallRevertedError, ChainError, EndpointError, RangeError, RetryError

_CONNECTIONS: Final = 4
_BATCH: Final = 250
_HEADERS: Final = {"Content-Type": "application/json"}


class HttpTransport:
    """See `transport.Transport`. Created by `open_http`."""

    def __init__(self, url: RpcUrl, client: aiohttp.ClientSession, traffic: Traffic) -> None:
        self.url = url
        self.traffic = traffic
        self.failure: ChainError | None = None
        self._client = client
        self._batch = _BATCH

    async def exchange(self, requests: Sequence[Request], timeout: float) -> list[Outcome]:
        """See `transport.Transport.exchange`."""
        try:
            async with asyncio.timeout(timeout):
                return await self._exchange(requests)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise lost(error) from None  # the library's messages quote the URL

    async def notification(self, timeout: float) -> Notification | None:
        """Return None after ``timeout`` seconds: HTTP delivers no notifications."""
        await asyncio.sleep(timeout)
        return None

    async def _exchange(self, requests: Sequence[Request]) -> list[Outcome]:
        outcomes: list[Outcome] = []
        while len(outcomes) < len(requests):
            rest = requests[len(outcomes) :]
            if self._batch > 1 or len(rest) == 1:
                outcomes += await self._together(rest[: self._batch])
            else:
                outcomes += await self._one_by_one(rest[:_CONNECTIONS])
        return outcomes

    async def _together(self, requests: Sequence[Request]) -> list[Outcome]:
        """Send a batch. If it fails as a whole, send its calls one by one.

        If the single calls succeed, the endpoint does not support batches, and this session sends
        no more of them.
        """
        if len(requests) == 1:
            return await self._post(requests)
        try:
            outcomes = await self._post(requests)
        except RetryError as error:
            if error.retry_after is not None or "429" in str(error):
                raise
            outcomes = []
        except (ChainError, aiohttp.ClientError, OSError, ValueError):
            outcomes = []
        if outcomes and not all(map(_refused, outcomes)):
            return outcomes
        alone: list[Outcome] = []
        for start in range(0, len(requests), _CONNECTIONS):
            alone += await self._one_by_one(requests[start : start + _CONNECTIONS])
        if not all(map(_refused, alone)):
            self._batch = 1
        return alone

    async def _one_by_one(self, requests: Sequence[Request]) -> list[Outcome]:
        return list(await asyncio.gather(*(self._alone(request) for request in requests)))

    async def _alone(self, request: Request) -> Outcome:
        """Send one call in a separate POST.

        It never raises, so that none of several concurrent calls keeps running after an error.
        """
        try:
            return (await self._post([request]))[0]
        except ChainError as error:
            return error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return lost(error)

    async def _post(self, requests: Sequence[Request]) -> list[Outcome]:
        """Make one POST. Return an empty list if a batch got no batch in reply."""
        messages = decode(await self._exchange_bodies(requests), self.url.redactor)
        replies = {m.id: m for m in messages if isinstance(m, Response)}
        if len(requests) > 1 and any(request.id not in replies for request in requests):
            return []
        if len(requests) == 1 and None in replies and replies[None].fault is not None:
            replies = {requests[0].id: replies[None]}
        return [_own(replies, request, self.url) for request in requests]

    async def _exchange_bodies(self, requests: Sequence[Request]) -> bytes:
        """Send the calls, return the body of the reply, and count both.

        A body that breaks off, or exceeds `MAX_MESSAGE`, is not counted.
        """
        texts = [encode_one(request) for request in requests]
        body = joined(texts)
        overhead = shares(len(body) - sum(map(len, texts)), len(texts))  # brackets and commas
        for request, text, more in zip(requests, texts, overhead, strict=True):
            self.traffic.requested(request.method, len(text) + more)
        async with self._client.post(
            self.url.raw, data=body, headers=_HEADERS, allow_redirects=False, proxy=self.url.proxy
        ) as response:
            content = await _body(response.content)
        self.traffic.replied([request.method for request in requests], len(content))
        # Some endpoints send a JSON-RPC error with a 4xx or 5xx status. It has more detail.
        plain = 200 <= response.status < 300
        if not plain and (response.status == 429 or content.lstrip()[:1] not in (b"{", b"[")):
            raise refused(response.status, response.headers)
        return content


def _refused(outcome: Outcome) -> bool:
    return isinstance(outcome, ChainError) and not isinstance(outcome, CallRevertedError)


def _own(replies: dict[int | None, Response], request: Request, url: RpcUrl) -> Outcome:
    reply = replies.get(request.id)
    if reply is None:
        return EndpointError(f"{request.method}: the endpoint's reply does not belong to the call")
    return outcome(reply, request, url)


async def _body(stream: aiohttp.StreamReader) -> bytes:
    """Return the decompressed body. Raises `RangeError` if it exceeds `MAX_MESSAGE`."""
    try:
        return await read_bounded(stream, MAX_MESSAGE)
    except BodyTooLongError as error:
        raise RangeError(f"the endpoint's reply exceeds {MAX_MESSAGE >> 20} MiB") from error


@asynccontextmanager
async def open_http(url: RpcUrl, traffic: Traffic | None = None) -> AsyncIterator[HttpTransport]:
    """Open a connection pool for one endpoint. The first call makes the first connection.

    Messages are counted in ``traffic``.
    """
    marked = connector(url.mark, limit=_CONNECTIONS, keepalive_timeout=60)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=OPEN_TIMEOUT)
    cookies = aiohttp.DummyCookieJar()
    async with aiohttp.ClientSession(
        connector=marked, timeout=timeout, trust_env=False, cookie_jar=cookies
    ) as client:
        yield HttpTransport(url, client, traffic or Traffic())
