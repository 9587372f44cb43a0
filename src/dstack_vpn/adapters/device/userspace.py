"""A `Device` over the control socket of a running wireguard-go.

Three connections, all kept open (a change on an open one takes 0.03 to 0.2 ms, on a new one three times
as much): one changes, one reads, so that reading 10,000 peers queues no change behind it on our side, and
one is silent and only notices wireguard-go's death, of which the kernel tells within milliseconds.

wireguard-go holds the lock that changes need until a reader has taken the whole answer. So an answer is
taken first and parsed afterwards, in pieces, with the event loop's other work in between.
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

ANSWER_TIMEOUT: Final = 30.0
"""Seconds. A healthy device answers in 40 ms at most; version 0.0.20220316 may stall for a minute."""
PIECE_BYTES: Final = 65_536


class Channel(asyncio.Protocol):
    """A connection to the control socket that carries one request at a time.

    As a transport it reads while it writes, so an early refusal is never lost behind unsent bytes.
    """

    def __init__(self) -> None:
        self.lost = asyncio.Event()
        self._pieces: list[bytes] = []
        self._end = b""
        self._answer: asyncio.Future[list[bytes]] | None = None
        self._transport: asyncio.WriteTransport | None = None

    @classmethod
    async def open(cls, path: Path) -> "Channel":
        """Connect; raises `DeviceGoneError` without a listener."""
        try:
            _, channel = await asyncio.get_running_loop().create_unix_connection(cls, str(path))
        except OSError as error:
            raise DeviceGoneError(f"no WireGuard device listens at {path}") from error
        return channel

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport; asyncio calls this, as the two below."""
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Collect the answer, which an empty line ends."""
        self._pieces.append(data)
        self._end = (self._end + data)[-2:]
        if self._end == b"\n\n" and self._answer is not None and not self._answer.done():
            self._answer.set_result(self._pieces)

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail the calls that wait for an answer, and wake the waiters for this end."""
        self.lost.set()
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(DeviceGoneError("the WireGuard device hung up"))

    async def request(self, message: bytes) -> list[bytes]:
        """Send one operation and take its answer, in the pieces in which it came.

        Raises `DeviceGoneError`, and `DeviceError` after `ANSWER_TIMEOUT`; the channel is of no use then.
        """
        if self._transport is None or self.lost.is_set():
            raise DeviceGoneError("the WireGuard device hung up")
        self._pieces, self._end = [], b""
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(message)
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT):
                return await self._answer
        except TimeoutError:
            raise DeviceError(f"the WireGuard device did not answer within {ANSWER_TIMEOUT:g} s") from None

    def close(self) -> None:
        """Hang up; twice does no harm."""
        if self._transport is not None:
            self._transport.close()


class _Line:
    """Requests of one purpose, one after the other, over a channel that is opened when it is needed."""

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
                # Also where we were cancelled: a late answer must not be taken for the next one's.
                self.close()
                raise

    def close(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None


class UserspaceDevice:
    """A running wireguard-go; see `dstack_vpn.ports.Device`."""

    def __init__(self, path: Path, watch: Channel) -> None:
        self._watch = watch
        self._reads = _Line(path)
        self._changes = _Line(path)

    @classmethod
    async def connect(cls, path: Path) -> "UserspaceDevice":
        """Connect; raises `DeviceGoneError` without a listener."""
        return cls(path, await Channel.open(path))

    async def read(self) -> DeviceState:
        """Read everything; raises `DeviceError`, `DeviceGoneError`."""
        parser = uapi.GetParser()
        for piece in await self._reads.call(uapi.GET):
            for start in range(0, len(piece), PIECE_BYTES):
                parser.feed(piece[start : start + PIECE_BYTES])
                await asyncio.sleep(0)
        return parser.state()

    async def apply(self, changes: Sequence[PeerChange]) -> None:
        """Carry out the changes in their order; raises `DeviceError`, `DeviceGoneError`.

        Values are checked before the first change is sent.
        """
        for operation in uapi.encode_batches(changes):
            await self._change(operation)

    async def configure(self, private_key: PrivateKey, listen_port: int) -> None:
        """Set key and port if they differ; a port that is in use leaves the device on its old one.

        ``listen_port`` 0 keeps whatever port the device has. Raises `DeviceError`, `DeviceGoneError`.
        """
        state = await self.read()
        if derive(private_key) != state.public_key:
            await self._change(uapi.encode_private_key(private_key))
        if listen_port not in {0, state.listen_port}:
            await self._move(state.listen_port, listen_port)

    async def forget_key(self) -> None:
        """Take the private key away; raises `DeviceError`, `DeviceGoneError`."""
        await self._change(uapi.encode_private_key(PrivateKey(bytes(32))))

    async def _move(self, old: int, new: int) -> None:
        try:
            await self._change(uapi.encode_listen_port(new))
        except DeviceGoneError:
            raise
        except DeviceError as error:
            # The old socket is closed by now: every tunnel is cut until this has been sent.
            await self._change(uapi.encode_listen_port(old))
            raise DeviceError(f"can't listen on UDP port {new}: {error}") from error

    async def _change(self, operation: bytes) -> None:
        code = uapi.parse_status(b"".join(await self._changes.call(operation)))
        if code:
            # Lines after a refused one are read as the next operation: begin on a new connection.
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
        """Let go of the device, which goes on running."""
        for each in (self._watch, self._reads, self._changes):
            each.close()
