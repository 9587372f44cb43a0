"""JSON-RPC over a WebSocket: pipelined calls, and notifications as the chain makes them.

One task reads for all. What it reads goes to the call that waits for it or into a bounded queue; a queue that
overflows fails the session instead of dropping silently, for a lost log is a lost revocation. When reading
ends, for whatever reason, every waiting call and every later one gets the reason.
"""

import asyncio
import socket as sockets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final

import aiohttp

from dstack_vpn.adapters.chain.jsonrpc import (
    MAX_MESSAGE,
    Message,
    Notification,
    Reply,
    Request,
    decode,
    encode,
)
from dstack_vpn.adapters.chain.transport import OPEN_TIMEOUT, Outcome, outcome, refused, unreachable
from dstack_vpn.adapters.chain.url import RpcUrl
from dstack_vpn.errors import ChainError, EndpointError, RangeError, RetryError

HEARTBEAT: Final = 6.0
"""Seconds without a frame after which we ping; a peer that leaves it unanswered for half as long is gone."""

QUEUE_LENGTH: Final = 20_000
"""Notifications that may wait for the follower: some blocks full of events, about 20 MB at worst."""

_IN_FLIGHT: Final = 100
_TOO_BIG: Final = 1009  # RFC 6455, 7.4.1


class WebSocketTransport:
    """See `transport.Transport`; made by `open_websocket`."""

    def __init__(self, url: RpcUrl, socket: aiohttp.ClientWebSocketResponse, queue_length: int) -> None:
        self.url = url
        self.failure: ChainError | None = None
        self._socket = socket
        self._waiting: dict[int, asyncio.Future[Reply]] = {}
        self._queue: asyncio.Queue[Notification | None] = asyncio.Queue(queue_length + 1)
        self._queue_length = queue_length

    async def exchange(self, requests: Sequence[Request], timeout: float) -> list[Outcome]:
        """See `transport.Transport.exchange`."""
        try:
            async with asyncio.timeout(timeout):
                outcomes: list[Outcome] = []
                for start in range(0, len(requests), _IN_FLIGHT):
                    outcomes += await self._pipeline(requests[start : start + _IN_FLIGHT])
                return outcomes
        except TimeoutError as error:
            raise unreachable(error) from error

    async def notification(self, timeout: float) -> Notification | None:
        """See `transport.Transport.notification`."""
        try:
            async with asyncio.timeout(timeout):
                found = await self._queue.get()
        except TimeoutError:
            return None
        if found is None:
            self._queue.put_nowait(None)  # for a later reader
            raise self._failed()
        return found

    async def _pipeline(self, requests: Sequence[Request]) -> list[Outcome]:
        loop = asyncio.get_running_loop()
        futures = [loop.create_future() for _ in requests]
        self._waiting.update(zip((request.id for request in requests), futures, strict=True))
        try:
            for request in requests:
                await self._send(request)
            return [outcome(await f, request, self.url) for f, request in zip(futures, requests, strict=True)]
        finally:
            for request, future in zip(requests, futures, strict=True):
                self._waiting.pop(request.id, None)
                if future.done() and not future.cancelled():
                    future.exception()  # it was reported; only the first of them is raised

    async def _send(self, request: Request) -> None:
        if self.failure is not None:
            raise self._failed()
        try:
            await self._socket.send_str(encode([request]))
        except (aiohttp.ClientError, OSError) as error:
            raise unreachable(error) from error

    def _failed(self) -> ChainError:
        """A fresh copy of the failure: an exception raised twice would collect tracebacks."""
        failure = self.failure or EndpointError("the connection was closed")
        return type(failure)(str(failure))

    async def read(self) -> None:
        """Read until the connection ends. Raises nothing but cancellation; `failure` says what happened."""
        failure: ChainError = EndpointError("the connection was closed by us")
        try:
            while True:
                acknowledge_at_once(self._socket)
                for message in decode(_text(await self._socket.receive(), self._socket), self.url.redactor):
                    self._deliver(message)
        except ChainError as error:
            failure = error
        except (aiohttp.ClientError, OSError) as error:
            failure = unreachable(error)
        finally:
            self._fail(failure)

    def _fail(self, failure: ChainError) -> None:
        self.failure = failure
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(self._failed())
        self._queue.put_nowait(None)  # the queue is made one longer than what we fill it with

    def _deliver(self, message: Message) -> None:
        match message:
            case Notification():
                if self._queue.qsize() >= self._queue_length:
                    raise EndpointError("the endpoint sends more events than we can follow")
                self._queue.put_nowait(message)
            case Reply(id=None, fault=fault):
                text = fault.message if fault else ""
                raise RetryError(
                    f"the endpoint refused the connection's calls: {self.url.redact(text)[:120]}"
                )
            case Reply(id=int(number)):
                future = self._waiting.get(number)
                # None: its caller gave up waiting, or never was. Neither is worth a connection.
                if future is not None and not future.done():
                    future.set_result(message)


def acknowledge_at_once(socket: aiohttp.ClientWebSocketResponse) -> None:
    """Don't delay the acknowledgement of what was just read (tcp(7), TCP_QUICKACK, which has to be repeated).

    Servers that leave Nagle's algorithm on, as anvil does, hold a log back until the head before it was
    acknowledged: 40 ms that are ours to save.
    """
    raw = socket.get_extra_info("socket")
    if raw is not None:
        with suppress(OSError):  # the connection is gone: reading will say so
            raw.setsockopt(sockets.IPPROTO_TCP, sockets.TCP_QUICKACK, 1)


def _text(frame: aiohttp.WSMessage, socket: aiohttp.ClientWebSocketResponse) -> str | bytes:
    """A data frame's content; any other frame is the connection's end."""
    if frame.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY):
        content: str | bytes = frame.data
        return content
    if socket.close_code == _TOO_BIG:
        raise RangeError(f"the endpoint's answer exceeds {MAX_MESSAGE >> 20} MiB")
    if isinstance(socket.exception(), TimeoutError):
        raise EndpointError("the endpoint left a ping unanswered")
    raise EndpointError(f"the endpoint closed the connection (code {socket.close_code})")


@asynccontextmanager
async def open_websocket(
    url: RpcUrl, *, queue_length: int = QUEUE_LENGTH, heartbeat: float = HEARTBEAT
) -> AsyncIterator[WebSocketTransport]:
    """Connect, and read beside the body for as long as it runs. Raises `EndpointError`, `RetryError`."""
    tracing = aiohttp.TraceConfig()
    tracing.on_request_redirect.append(_refuse_redirect)
    async with aiohttp.ClientSession(
        trust_env=False, cookie_jar=aiohttp.DummyCookieJar(), trace_configs=[tracing]
    ) as client:
        socket = await _handshake(client, url, heartbeat)
        try:
            transport = WebSocketTransport(url, socket, queue_length)
            async with _beside(transport):
                yield transport
        finally:
            await socket.close()


@asynccontextmanager
async def _beside(transport: WebSocketTransport) -> AsyncIterator[None]:
    """Run the reader beside the body. It never raises, so the body's own error is the only one there can be,
    and it leaves here as itself and not in the task group's wrapping.
    """
    failure: BaseException | None = None
    async with asyncio.TaskGroup() as group:
        reader = group.create_task(transport.read(), name=f"rpc-reader {transport.url.name}")
        try:
            yield
        except BaseException as error:  # noqa: BLE001  # raised again below, cancellation included
            failure = error
        reader.cancel()
    if failure is not None:
        raise failure


async def _refuse_redirect(*_: object) -> None:
    """A redirect may lead from TLS to plain text, or to the host of another endpoint."""
    raise EndpointError("the endpoint redirects elsewhere, which is not followed: name that URL in RPC_URL")


async def _handshake(
    client: aiohttp.ClientSession, url: RpcUrl, heartbeat: float
) -> aiohttp.ClientWebSocketResponse:
    try:
        async with asyncio.timeout(OPEN_TIMEOUT):
            return await client.ws_connect(
                # A proxy gets a request for an http URL: few know another scheme.
                "http" + url.raw[2:] if url.proxy else url.raw,
                proxy=url.proxy,
                heartbeat=heartbeat,
                max_msg_size=MAX_MESSAGE,
                compress=0,
                timeout=aiohttp.ClientWSTimeout(ws_close=1.0),
            )
    except aiohttp.WSServerHandshakeError as error:
        # Its text has the URL, which has the key: hence ours instead, and no cause to print.
        raise refused(error.status, error.headers) from None
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise unreachable(error) from None
