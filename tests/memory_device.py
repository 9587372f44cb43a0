"""A device and its link in memory, with WireGuard's semantics, and faults on demand.

The same conformance suite runs over them and over the real ones: an allowed IP belongs to one peer
and moves to another peer that claims it; the removal of an unknown peer is not an error; a peer
with the device's own key is ignored; and the changes before a refused one stay applied.
"""

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from dstack_vpn.adapters.device.addresses import check_keepalive, check_port, pack_cidr, pack_endpoint
from dstack_vpn.core.model import DeviceState, PeerChange, PeerState, RemovePeer, SetPeer
from dstack_vpn.core.wireguard.keys import PrivateKey, PublicKey
from dstack_vpn.core.wireguard.x25519 import derive
from dstack_vpn.errors import DeviceError, DeviceGoneError
from dstack_vpn.ports import HostRoutes, LinkSettings


class MemoryDevice:
    """A `Device` in memory."""

    def __init__(self) -> None:
        self.peers: dict[PublicKey, PeerState] = {}
        self.applied: list[PeerChange] = []
        """All applied changes, in order."""
        self.public_key: PublicKey | None = None
        self.listen_port = 0
        self.used_ports: set[int] = set()
        """The ports of other programs, which `configure` refuses."""
        self.before: Callable[[PeerChange], None] = lambda change: None
        """Called before each change."""
        self.vanished = asyncio.Event()
        self._owners: dict[str, PublicKey] = {}
        self._countdown = 0

    # -- faults ------------------------------------------------------------------------------------

    def fail_change(self, nth: int) -> None:
        """Refuse the n-th change from now (from 1), once."""
        self._countdown = nth

    def vanish(self) -> None:
        """Make the device disappear."""
        self.vanished.set()

    # -- the port ----------------------------------------------------------------------------------

    async def read(self) -> DeviceState:
        """Return the device's state; raises `DeviceGoneError` after `vanish`."""
        await self._turn()
        return DeviceState(self.public_key, self.listen_port, 0, dict(self.peers))

    async def apply(self, changes: Sequence[PeerChange]) -> None:
        """Apply the changes in their order; raises `DeviceError`, `DeviceGoneError`."""
        await self._turn()
        for change in changes:
            check_change(change)
        for change in changes:
            self.before(change)
            self._count_down()
            self._carry_out(change)
            self.applied.append(change)

    async def configure(self, private_key: PrivateKey, listen_port: int) -> None:
        """Set key and port; raises `DeviceError` for a used port, `DeviceGoneError`."""
        await self._turn()
        check_port(listen_port)
        self.public_key = derive(private_key)
        self._remove(self.public_key)
        if listen_port in self.used_ports:
            raise DeviceError(f"cannot listen on UDP port {listen_port}: it is in use by another program")
        self.listen_port = listen_port or self.listen_port

    # -- semantics ---------------------------------------------------------------------------------

    async def _turn(self) -> None:
        # Real devices suspend their callers here. Code that fails then must fail in tests too.
        await asyncio.sleep(0)
        if self.vanished.is_set():
            raise DeviceGoneError("the WireGuard device closed the connection")

    def _count_down(self) -> None:
        self._countdown -= 1
        if self._countdown == 0:
            raise DeviceError("WireGuard: the device refused a value (errno 22)")

    def _carry_out(self, change: PeerChange) -> None:
        match change:
            case RemovePeer():
                self._remove(change.public_key)
            case SetPeer() if change.public_key != self.public_key:
                self._set(change)

    def _set(self, change: SetPeer) -> None:
        key = change.public_key
        peer = self.peers.setdefault(key, PeerState(key, frozenset()))
        self.peers[key] = replace(
            peer,
            endpoint=peer.endpoint if change.endpoint is None else change.endpoint,
            keepalive=peer.keepalive if change.keepalive is None else change.keepalive,
        )
        if change.replace_allowed_ips:
            self._disown(key, peer.allowed_ips)
        self._claim(key, change.allowed_ips or frozenset())

    def _claim(self, key: PublicKey, prefixes: frozenset[str]) -> None:
        for prefix in prefixes:
            owner = self._owners.get(prefix)
            if owner is not None:
                self._disown(owner, frozenset({prefix}))
            self._owners[prefix] = key
        self.peers[key] = replace(self.peers[key], allowed_ips=self.peers[key].allowed_ips | prefixes)

    def _disown(self, key: PublicKey, prefixes: frozenset[str]) -> None:
        for prefix in prefixes:
            del self._owners[prefix]
        self.peers[key] = replace(self.peers[key], allowed_ips=self.peers[key].allowed_ips - prefixes)

    def _remove(self, key: PublicKey) -> None:
        if key in self.peers:
            self._disown(key, self.peers[key].allowed_ips)
            del self.peers[key]


def check_change(change: PeerChange) -> None:
    """Raise `DeviceError` for a value that no device accepts."""
    if isinstance(change, SetPeer):
        if change.endpoint is not None:
            pack_endpoint(change.endpoint)
        check_keepalive(change.keepalive or 0)
        for cidr in change.allowed_ips or ():
            pack_cidr(cidr)


class MemoryLink:
    """A `Link` that records its calls."""

    def __init__(self, name: str = "wg0") -> None:
        self.name = name
        self.device: MemoryDevice | None = None
        self.settings: LinkSettings | None = None
        self.starts = 0
        self.kept: bool | None = None
        """The ``keep`` of the last `stop`; None after a start."""
        self.taken: str | None = None
        """The return value of `obstacle`."""
        self.without_ipv6 = False
        self.edits = asyncio.Event()
        """Set by a test in place of the kernel's notification."""
        self.host = HostRoutes(1, (), ())
        """The return value of `survey`."""
        self.fail_starts = 0
        """The number of the next `start` calls that fail."""

    async def start(self) -> MemoryDevice:
        """Return the present device, or a new one; raises `DeviceError` while ``fail_starts``."""
        await asyncio.sleep(0)
        if self.fail_starts:
            self.fail_starts -= 1
            raise DeviceError(f"cannot create {self.name}: fail_starts is set")
        if self.device is None or self.device.vanished.is_set():
            self.device = MemoryDevice()
            self.starts += 1
        self.kept = None
        return self.device

    async def gone(self) -> None:
        """Return when the device has vanished."""
        if self.device is not None:
            await self.device.vanished.wait()

    async def configure(self, settings: LinkSettings) -> bool:
        """Store the settings; raises `DeviceGoneError` if the device is missing."""
        await asyncio.sleep(0)
        if self.device is None or self.device.vanished.is_set():
            raise DeviceGoneError(f"the interface {self.name} does not exist")
        before, self.settings = self.settings, settings
        return before != settings

    async def edited(self) -> None:
        """Return when the test has set ``edits``."""
        await self.edits.wait()
        self.edits.clear()

    async def survey(self, prefixes: Collection[str]) -> HostRoutes:
        """Return the routes that the test has set; raises `DeviceGoneError` like `configure`."""
        await asyncio.sleep(0)
        if self.device is None or self.device.vanished.is_set():
            raise DeviceGoneError(f"the interface {self.name} does not exist")
        return self.host

    def obstacle(self) -> str | None:
        """Return the obstacle that the test has set."""
        return self.taken

    async def is_up(self) -> bool:
        """Return True if the device exists and was configured."""
        return self.device is not None and not self.device.vanished.is_set() and self.settings is not None

    async def stop(self, *, keep: bool) -> None:
        """Remove the device; with ``keep``, leave it for the next `start`."""
        self.kept = keep
        if not keep:
            self.device = self.settings = None
