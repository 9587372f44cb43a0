"""A `Device` over the control socket of a running wireguard-go.

It keeps three connections open. A change takes 0.03 to 0.2 ms on an open connection and three times
as long on a new one. One connection carries changes. One carries reads, so that a read of 10,000
peers delays no change. One is silent and detects the death of wireguard-go, which the kernel
reports within milliseconds.

wireguard-go holds the lock that changes need until a reader has received the whole reply. Therefore
a reply is received first and parsed afterwards, in pieces, so that the event loop can do other work
in between.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from dstack_vpn.adapters.device import uapi
from dstack_vpn.core.model import DeviceState, PeerChange
from dstack_vpn.core.wireguard.keys import PrivateKey
from dstack_vpn.core.wireguard.x25519 import derive
from dstack_vpn.errors import DeviceError, DeviceGoneError
from dstack_vpn.slices import slices

ANSWER_TIMEOUT: Final = 30.0
"""Seconds. A healthy device replies within 40 ms. Version 0.0.20220316 may stall for a minute."""
PIECE_BYTES: Final = 32_768
"""The bytes of a reply that are parsed at a time: about 1 ms."""


class Channel(asyncio.Protocol):
    """A connection to the control socket that carries one request at a time.

    As an asyncio transport it reads while it writes, so unsent bytes do not delay an early refusal.
    """

    def __init__(self) -> None:
        self.lost = asyncio.Event()
        self._pieces: list[bytes] = []
        self._end = b""
        self._answer: asyncio.Future[list[bytes]] | None = None
        self._transport: asyncio.WriteTransport | None = None

    @classmethod
    async def open(cls, path: Path) -> "Channel":
        """Connect. Raises `DeviceGoneError` if no device listens."""
        try:
            _, channel = await asyncio.get_running_loop().create_unix_connection(cls, str(path))
        except OSError as error:
            raise DeviceGoneError(f"no WireGuard device listens at {path}") from error
        return channel

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Store the transport. asyncio calls this and the next two methods."""
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Collect the reply until its empty line."""
        self._pieces.append(data)
        self._end = (self._end + data)[-2:]
        if self._end == b"\n\n" and self._answer is not None and not self._answer.done():
            self._answer.set_result(self._pieces)

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail the request that waits for a reply, and wake the waiters for the end."""
        self.lost.set()
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(DeviceGoneError("the WireGuard device closed the connection"))

    async def request(self, message: bytes) -> list[bytes]:
        """Send one operation and return the pieces of its reply.

        Raises `DeviceGoneError`, and `DeviceError` after `ANSWER_TIMEOUT`. The channel is unusable
        then.
        """
        if self._transport is None or self.lost.is_set():
            raise DeviceGoneError("the WireGuard device closed the connection")
        self._pieces, self._end = [], b""
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(message)
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT):
                return await self._answer
        except TimeoutError:
            raise DeviceError(f"the WireGuard device did not reply within {ANSWER_TIMEOUT:g} s") from None

    def close(self) -> None:
        """Close the connection. Further calls have no effect."""
        if self._transport is not None:
            self._transport.close()


class _Line:
    """Requests of one kind, one after the other, over a channel that is opened on demand."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._turn = asyncio.Lock()
        self._channel: Channel | None = None

    async def call(self, message: bytes) -> list[bytes]:
        async with self._turn:
            if self._channel is None or self._channel.lost.is_set():
                self._channel = await Channel.open(self._path)
            try:
                return await self._channel.request(message)
            except BaseException:
                # Also after a cancellation: a late reply must not be read as the next one.
                self.close()
                raise

    def close(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None


class UserspaceDevice:
    """A running wireguard-go. See `dstack_vpn.ports.Device`."""

    def __init__(self, path: Path, watch: Channel) -> None:
        self._watch = watch
        self._reads = _Line(path)
        self._changes = _Line(path)

    @classmethod
    async def connect(cls, path: Path) -> "UserspaceDevice":
        """Connect. Raises `DeviceGoneError` if no device listens."""
        return cls(path, await Channel.open(path))

    async def read(self) -> DeviceState:
        """Return the state of the device. Raises `DeviceError`, `DeviceGoneError`."""
        parser = uapi.GetParser()
        reply = b"".join(await self._reads.call(uapi.GET))
        async for piece in slices(reply, PIECE_BYTES):
            parser.feed(piece)
        return parser.state()

    async def apply(self, changes: Sequence[PeerChange]) -> None:
        """Apply the changes in order. Raises `DeviceError`, `DeviceGoneError`.

        All values are checked before the first change is sent.
        """
        for operation in uapi.encode_batches(changes):
            await self._change(operation)

    async def configure(self, private_key: PrivateKey, listen_port: int, mark: int | None = None) -> None:
        """Set key, port and mark if they differ. With a used port, the device keeps the old one.

        ``listen_port`` 0 keeps the current port. Raises `DeviceError`, `DeviceGoneError`.
        """
        state = await self.read()
        if mark not in {None, state.fwmark}:
            await self._change(uapi.encode_mark(mark or 0))
        if derive(private_key) != state.public_key:
            await self._change(uapi.encode_private_key(private_key))
        if listen_port not in {0, state.listen_port}:
            await self._move(state.listen_port, listen_port)

    async def forget_key(self) -> None:
        """Remove the private key. Raises `DeviceError`, `DeviceGoneError`."""
        await self._change(uapi.encode_private_key(PrivateKey(bytes(32))))

    async def _move(self, old: int, new: int) -> None:
        try:
            await self._change(uapi.encode_listen_port(new))
        except DeviceGoneError:
            raise
        except DeviceError as error:
            # The old socket is closed already, so no tunnel works until this is sent.
            await self._change(uapi.encode_listen_port(old))
            raise DeviceError(f"can't listen on UDP port {new}: {error}") from error

    async def _change(self, operation: bytes) -> None:
        code = uapi.parse_status(b"".join(await self._changes.call(operation)))
        if code:
            # The device reads lines after a refused one as the next operation, so reconnect.
            self._changes.close()
            raise uapi.refusal(code)

    async def gone(self) -> None:
        """Return when wireguard-go has died, or `close` was called."""
        await self._watch.lost.wait()

    @property
    def is_gone(self) -> bool:
        """True if wireguard-go has died or `close` was called."""
        return self._watch.lost.is_set()

    def close(self) -> None:
        """Close the connections. The device keeps running."""
        for each in (self._watch, self._reads, self._changes):
            each.close()
