"""A `Device` over the kernel's generic netlink interface (see `wgnetlink` for its messages).

It uses two sockets, because a running dump would delay a change on the same socket. The kernel
executes a request while it is being sent. Requests that may take long (removals and large ones) are
sent from a thread.
"""

import asyncio
import errno
from collections.abc import Sequence
from typing import Final

from dstack_vpn.adapters.device import wgnetlink
from dstack_vpn.adapters.device.netlink import (
    NLM_F_ACK,
    NLM_F_DUMP,
    NLM_F_DUMP_INTR,
    GenericSocket,
    NetlinkRefusalError,
)
from dstack_vpn.core.model import DeviceState, PeerChange, RemovePeer
from dstack_vpn.core.wireguard.keys import PrivateKey
from dstack_vpn.core.wireguard.x25519 import derive
from dstack_vpn.errors import DeviceError, DeviceGoneError

DUMP_ATTEMPTS: Final = 10

_MESSAGES: Final = {
    errno.EPERM: "no permission to change WireGuard devices: CAP_NET_ADMIN is needed",
    errno.EADDRINUSE: "the UDP port is in use by another program",
    errno.EINVAL: "the device refused a value",
    errno.EOPNOTSUPP: "the interface is not a WireGuard device",
}


class KernelDevice:
    """A WireGuard interface of the kernel. See `dstack_vpn.ports.Device`."""

    def __init__(self, name: str, family: int) -> None:
        self._name = name
        self._family = family
        self._reads, self._changes = GenericSocket(), GenericSocket()
        self._reading, self._changing = asyncio.Lock(), asyncio.Lock()

    async def read(self) -> DeviceState:
        """Return the state of the device, read again if it changed during the dump.

        Raises `DeviceError`, `DeviceGoneError`.
        """
        async with self._reading:
            for _ in range(DUMP_ATTEMPTS):
                state = await self._dump()
                if state is not None:
                    return state
        raise DeviceError(f"{self._name} changed during each of {DUMP_ATTEMPTS} attempts to read it")

    async def _dump(self) -> DeviceState | None:
        """Return one dump, or None if the device changed during it.

        The dump of a changing device may omit peers or contain them twice.
        """
        parser, torn = wgnetlink.DumpParser(), False
        payload = wgnetlink.encode_get(self._name)
        try:
            async for each in self._reads.request(self._family, NLM_F_DUMP, payload):
                parser.feed(each.payload)
                torn |= bool(each.flags & NLM_F_DUMP_INTR)
        except NetlinkRefusalError as error:
            raise self._translated(error) from error
        return None if torn else parser.state()

    async def apply(self, changes: Sequence[PeerChange]) -> None:
        """Apply the changes in order. Raises `DeviceError`, `DeviceGoneError`.

        All values are checked before the first change is sent.
        """
        payloads = wgnetlink.encode_batches(self._name, changes)
        slow = any(isinstance(change, RemovePeer) for change in changes)
        async with self._changing:
            for payload in payloads:
                await self._change(payload, slow=slow)

    async def configure(self, private_key: PrivateKey, listen_port: int, mark: int | None = None) -> None:
        """Set key, port and mark if they differ. With a used port, the device keeps the old one.

        ``listen_port`` 0 keeps the current port. Raises `DeviceError`, `DeviceGoneError`.
        """
        state = await self.read()
        async with self._changing:
            if mark not in {None, state.fwmark}:
                await self._change(wgnetlink.encode_mark(self._name, mark or 0), slow=False)
            if derive(private_key) != state.public_key:
                await self._change(wgnetlink.encode_private_key(self._name, private_key), slow=True)
            if listen_port not in {0, state.listen_port}:
                await self._change(wgnetlink.encode_listen_port(self._name, listen_port), slow=True)

    async def forget_key(self) -> None:
        """Remove the private key. Raises `DeviceError`, `DeviceGoneError`."""
        async with self._changing:
            await self._change(wgnetlink.encode_private_key(self._name, PrivateKey(bytes(32))), slow=True)

    async def _change(self, payload: bytes, *, slow: bool) -> None:
        try:
            async for _ in self._changes.request(self._family, NLM_F_ACK, payload, slow=slow):
                pass
        except NetlinkRefusalError as error:
            raise self._translated(error) from error

    def _translated(self, error: NetlinkRefusalError) -> DeviceError:
        if error.code == errno.ENODEV:
            return DeviceGoneError(f"the interface {self._name} does not exist")
        return DeviceError(f"{self._name}: {_MESSAGES.get(error.code) or error}")

    def close(self) -> None:
        """Close the sockets. The device keeps running."""
        self._reads.close()
        self._changes.close()
