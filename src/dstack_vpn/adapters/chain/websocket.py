"""JSON-RPC over a WebSocket: pipelined calls and notifications.

One task reads all frames. It passes a reply to the call that waits for it and puts a notification
into a bounded queue. An overflow of the queue fails the session: a dropped log could be a
revocation. When reading ends, every waiting call and every later call gets the reason as its error.
"""

import asyncio
import socket as sockets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final, NamedTuple

import aiohttp

from dstack_vpn.adapters.chain.connector import connector
from dstack_vpn.adapters.chain.jsonrpc import (
    MAX_MESSAGE,
    Message,
    Notification,
    Request,
    Response,
    decode,
    encode_one,
)
from dstack_vpn.adapters.chain.traffic import Traffic, size_of
from dstack_vpn.adapters.chain.transport import OPEN_TIMEOUT, Outcome, outcome, refused, unreachable
from dstack_vpn.adapters.chain.url import RpcUrl
from dstack_vpn.core.chain.usage import NOTIFICATION, OTHER, shares
from dstack_vpn.errors import ChainError, EndpointError, RangeError, RetryError

HEARTBEAT: Final = 6.0
"""Seconds without a frame before a ping. An endpoint that does not reply for half as long has
failed."""

QUEUE_LENGTH: Final = 20_000
"""The limit of queued notifications: some blocks full of events, at most about 20 MB."""

_IN_FLIGHT: Final = 100
_TOO_BIG: Final = 1009  # RFC 6455, 7.4.1


class _Call(NamedTuple):
    """A call that waits for its reply."""

    method: str
    reply: "asyncio.Future[Response]"


class WebSocketTransport:
    """See `transport.Transport`. Created by `open_websocket`."""

    def __init__(
        self, url: RpcUrl, socket: aiohttp.ClientWebSocketResponse, queue_length: int, traffic: Traffic
    ) -> None:
        self.url = url
        self.traffic = traffic
        self.failure: ChainError | None = None
        self._socket = socket
        self._waiting: dict[int, _Call] = {}
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
            self._queue.put_nowait(None)  # for the next call
            raise self._failed()
        return found

    async def _pipeline(self, requests: Sequence[Request]) -> list[Outcome]:
        loop = asyncio.get_running_loop()
        futures = [loop.create_future() for _ in requests]
        for request, future in zip(requests, futures, strict=True):
            self._waiting[request.id] = _Call(request.method, future)
        try:
            for request in requests:
                await self._send(request)
            return [outcome(await f, request, self.url) for f, request in zip(futures, requests, strict=True)]
        finally:
            for request, future in zip(requests, futures, strict=True):
                self._waiting.pop(request.id, None)
                if future.done() and not future.cancelled():
                    future.exception()  # mark it as retrieved, since only the first is raised

    async def _send(self, request: Request) -> None:
        if self.failure is not None:
            raise self._failed()
        try:
            text = encode_one(request)
            self.traffic.requested(request.method, len(text))
            await self._socket.send_str(text)
        except (aiohttp.ClientError, OSError) as error:
            raise unreachable(error) from error

    def _failed(self) -> ChainError:
        """Return a copy of the failure: an exception that is raised twice collects tracebacks."""
        failure = self.failure or EndpointError("the connection was closed")
        return type(failure)(str(failure))

    async def read(self) -> None:
        """Read until the connection ends, and store the reason in ``failure``.

        Raises nothing except cancellation.
        """
        failure: ChainError = EndpointError("the daemon closed the connection")
        try:
            while True:
                acknowledge_at_once(self._socket)
                for message in self._decode(_text(await self._socket.receive(), self._socket)):
                    self._deliver(message)
        except ChainError as error:
            failure = error
        except (aiohttp.ClientError, OSError) as error:
            failure = unreachable(error)
        finally:
            self._fail(failure)

    def _decode(self, text: str | bytes) -> list[Message]:
        """Return a frame's messages, and count them. Raises `EndpointError`."""
        size, messages = size_of(text), list[Message]()
        try:
            messages = decode(text, self.url.redactor)
        finally:
            if not messages:
                self.traffic.unasked(OTHER, size)
        for message, share in zip(messages, shares(size, len(messages)), strict=True):
            self._count(message, share)
        return messages

    def _count(self, message: Message, size: int) -> None:
        call = None if isinstance(message, Notification) else self._waiting.get(message.id or 0)
        if isinstance(message, Notification):
            self.traffic.unasked(NOTIFICATION, size)
        elif call is None:
            self.traffic.unasked(OTHER, size)
        else:
            self.traffic.replied([call.method], size)

    def _fail(self, failure: ChainError) -> None:
        self.failure = failure
        for call in self._waiting.values():
            if not call.reply.done():
                call.reply.set_exception(self._failed())
        self._queue.put_nowait(None)  # the queue has one more place than `_deliver` fills

    def _deliver(self, message: Message) -> None:
        match message:
            case Notification():
                if self._queue.qsize() >= self._queue_length:
                    raise EndpointError("the endpoint sends events faster than they are processed")
                self._queue.put_nowait(message)
            case Response(id=None, fault=fault):
                text = fault.message if fault else ""
                raise RetryError(
                    f"the endpoint refused the connection's calls: {self.url.redact(text)[:120]}"
                )
            case Response(id=int(number)):
                call = self._waiting.get(number)
                # None: the caller stopped waiting, or never sent such a call. The connection is
                # kept.
                if call is not None and not call.reply.done():
                    call.reply.set_result(message)


def acknowledge_at_once(socket: aiohttp.ClientWebSocketResponse) -> None:
    """Acknowledge received data without a delay (tcp(7), TCP_QUICKACK, set before each read).

    Servers with Nagle's algorithm, such as anvil, delay a log until the head before it was
    acknowledged. This saves 40 ms.
    """
    raw = socket.get_extra_info("socket")
    if raw is not None:
        with suppress(OSError):  # a closed connection fails at the next read
            raw.setsockopt(sockets.IPPROTO_TCP, sockets.TCP_QUICKACK, 1)


def _text(frame: aiohttp.WSMessage, socket: aiohttp.ClientWebSocketResponse) -> str | bytes:
    """Return the content of a data frame. Any other frame ends the connection."""
    if frame.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY):
        content: str | bytes = frame.data
        return content
    if socket.close_code == _TOO_BIG:
        raise RangeError(f"the endpoint's message exceeds {MAX_MESSAGE >> 20} MiB")
    if isinstance(socket.exception(), TimeoutError):
        raise EndpointError("the endpoint did not reply to a ping")
    raise EndpointError(f"the endpoint closed the connection (code {socket.close_code})")


@asynccontextmanager
async def open_websocket(
    url: RpcUrl,
    traffic: Traffic | None = None,
    *,
    queue_length: int = QUEUE_LENGTH,
    heartbeat: float = HEARTBEAT,
) -> AsyncIterator[WebSocketTransport]:
    """Connect, and read in a task until the body ends. Raises `EndpointError`, `RetryError`.

    Messages are counted in ``traffic``.
    """
    tracing = aiohttp.TraceConfig()
    tracing.on_request_redirect.append(_refuse_redirect)
    async with aiohttp.ClientSession(
        connector=connector(url.mark),
        trust_env=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        trace_configs=[tracing],
    ) as client:
        socket = await _handshake(client, url, heartbeat)
        try:
            transport = WebSocketTransport(url, socket, queue_length, traffic or Traffic())
            async with _reading(transport):
                yield transport
        finally:
            await socket.close()


@asynccontextmanager
async def _reading(transport: WebSocketTransport) -> AsyncIterator[None]:
    """Run the reader in a task beside the body.

    The reader never raises, so the only possible error is the body's. It is raised without the
    wrapper of the task group.
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
    """Refuse a redirect: it may lead from TLS to plain text or to another endpoint's host."""
    raise EndpointError("the endpoint redirects, which is not followed: put the target into RPC_URL")


async def _handshake(
    client: aiohttp.ClientSession, url: RpcUrl, heartbeat: float
) -> aiohttp.ClientWebSocketResponse:
    try:
        async with asyncio.timeout(OPEN_TIMEOUT):
            return await client.ws_connect(
                # A proxy gets a request for an http URL: few support another scheme.
                "http" + url.raw[2:] if url.proxy else url.raw,
                proxy=url.proxy,
                heartbeat=heartbeat,
                max_msg_size=MAX_MESSAGE,
                compress=0,
                timeout=aiohttp.ClientWSTimeout(ws_close=1.0),
            )
    except aiohttp.WSServerHandshakeError as error:
        # Its message contains the URL with the key, so it is neither used nor chained.
        raise refused(error.status, error.headers) from None
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise unreachable(error) from None
