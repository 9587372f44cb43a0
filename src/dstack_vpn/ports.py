"""What the bridge needs from the outside world, as small as it can be.

`adapters` implements these; `bridge` knows nothing else of the world. Every method may raise the errors
named here and no others.
"""

from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from dstack_vpn.core.access.replies import Question, Reply
from dstack_vpn.core.chain.events import LoggedEvent, RegistryEvent, TokenState
from dstack_vpn.core.chain.node import Node
from dstack_vpn.core.model import (
    BlockRef,
    ChainIdentity,
    Cidr,
    DeviceState,
    PeerChange,
    SocketAddress,
    TokenId,
)
from dstack_vpn.core.observe.audit_chain import Anchor, AuditRecord
from dstack_vpn.core.observe.event import Event
from dstack_vpn.core.paths.relay_url import RelayUrl
from dstack_vpn.core.wireguard.keys import PrivateKey, PublicKey

Publish: TypeAlias = Callable[[Event], None]
"""Publishes an event; never waits, and raises nothing."""


@dataclass(frozen=True, slots=True)
class Log:
    """An event log of the registry contract as an endpoint sent it, with its fields' forms checked."""

    topics: tuple[str, ...]
    """``0x`` and 64 lower-case digits each."""
    data: bytes
    block_number: int
    block_hash: str
    log_index: int
    removed: bool


class RegistryAbi(Protocol):
    """One registry contract's interface: a pure codec between its ABI and the core's events.

    Every parser validates what it reads (the chain's text is hostile) and raises only `FormatError`.
    """

    name: str
    topics: frozenset[str]
    """The first topics of the events that it understands."""
    rereads: frozenset[type[RegistryEvent]]
    """Events that leave open what a token's state is after them: read the token again at that block."""
    page_size: int
    """Tokens per `page_call`; 0 where the contract can't enumerate."""

    def decode(self, log: Log) -> RegistryEvent | None:
        """The log's event; None where it means nothing to the registry (such as the mint's `Transfer`)."""

    def token_calls(self, token_id: TokenId) -> tuple[bytes, ...]:
        """Calldata of the ``eth_call`` requests that together read a token."""

    def parse_token(self, token_id: TokenId, replies: Sequence[bytes | None], at: BlockRef) -> TokenState:
        """What the replies to `token_calls` say, in their order; None stands for a call that reverted."""

    def page_call(self, offset: int, limit: int) -> bytes:
        """Calldata that reads up to ``limit`` tokens from the ``offset``-th on."""

    def parse_page(self, reply: bytes, at: BlockRef) -> tuple[list[TokenState], int]:
        """The page's tokens, and how many tokens there are in all."""


@dataclass(frozen=True, slots=True)
class Unannounced:
    """A head whose logs the endpoint may not publish: ask for them."""

    block: BlockRef


ChainFact: TypeAlias = BlockRef | LoggedEvent
"""What an endpoint sends by itself: a new head, or a log. They come in any order."""


class ChainSession(Protocol):
    """A connection to one RPC endpoint, whose chain and contract have been checked.

    Every call has a deadline and raises `EndpointError` when the session is of no use any more (leave it and
    open the next one), `RetryError` after its own retries were in vain, or `RangeError`.
    """

    name: str
    """The endpoint for logs and metrics: scheme and host, never credentials or paths."""
    identity: ChainIdentity
    rereads: frozenset[type[RegistryEvent]]
    """See `RegistryAbi.rereads`."""
    announces_logs: bool
    """Whether `facts` has logs; else it has heads only, and their logs have to be fetched."""

    def facts(self) -> AsyncIterator[ChainFact | Unannounced]:
        """Heads and logs from now on until the session fails; logs are subscribed first.

        The first fact is the latest block: the logs of all blocks above it are announced, if logs are.
        """

    async def head(self) -> BlockRef:
        """The latest block."""

    async def header(self, number: int) -> BlockRef | None:
        """The canonical block at that number; None past the head."""

    async def finalized(self) -> BlockRef | None:
        """The newest block that can't be undone; None where the chain doesn't say."""

    async def events(self, first: int, last: int) -> list[LoggedEvent]:
        """All registry events of the blocks ``first`` to ``last``, inclusive, in order."""

    async def events_up_to(self, first: int, last: BlockRef) -> list[LoggedEvent] | None:
        """All registry events from block ``first`` to that very block, in order; None if it was replaced.

        Raises `LogsError` if the endpoint serves no logs, or too few at once, where the state can be read.
        """

    async def block_events(self, block_hash: str) -> list[LoggedEvent]:
        """All registry events of one block; `EndpointError` where the endpoint doesn't know the block."""

    async def read_tokens(self, tokens: Sequence[TokenId], at: BlockRef) -> list[TokenState]:
        """The tokens' state after that very block (EIP-1898)."""

    async def read_all(self, at: BlockRef) -> list[TokenState] | None:
        """Every token's state after that very block; None where the contract can't enumerate."""

    async def first_block(self) -> int:
        """The earliest block that can hold an event of the contract."""


@dataclass(frozen=True, slots=True)
class Quarantine:
    """How an endpoint stands that was found to lie."""

    times: int
    reason: str
    """The last time's."""
    seconds_left: float
    """0 when it is over."""


class ChainSource(Protocol):
    """The configured endpoints, tried in turn with growing pauses."""

    def session(self) -> AbstractAsyncContextManager[ChainSession]:
        """Connect to the next endpoint, waiting as its failures demand.

        Raises `EndpointError` where it can't be reached, `WrongChainError` where it serves something else.
        """

    def other(self, *, than: str) -> AbstractAsyncContextManager[ChainSession]:
        """Connect to another endpoint where one is ready, else anew to the same one: a second opinion.

        Raises the same errors as `session`.
        """

    def others(self, *, than: str) -> Sequence[str]:
        """The endpoints, one of each host, that are of another host and not in quarantine, by their names."""

    def to(self, name: str) -> AbstractAsyncContextManager[ChainSession]:
        """Connect to that endpoint, waiting as its failures demand. Raises the same errors as `session`."""

    def quarantine(self, name: str, reason: str) -> None:
        """Leave the endpoint's host alone, for longer each time: it was found to lie."""

    def quarantined(self) -> Mapping[str, Quarantine]:
        """The endpoints that were ever found to lie, by their names."""


class Verifier(Protocol):
    """Somebody else's word on a block that we stand on.

    Here it is another endpoint's, which counts as one of several. A proof of membership (``eth_getProof``
    against the state root of a block that k endpoints agree on) can stand in its place: it would fill a
    `Statement` from the proven storage instead of from what an endpoint says.
    """

    @property
    def name(self) -> str:
        """The endpoint's."""

    @property
    def problem(self) -> str | None:
        """Why it can't be asked now; None if it can, or if nobody knows."""

    async def query(self, question: Question) -> Reply:
        """What it says; raises `ChainError` where it says nothing in time."""


class Device(Protocol):
    """A WireGuard device. Changes are neither atomic nor durable (docs/decisions/0026)."""

    async def read(self) -> DeviceState:
        """Read everything; raises `DeviceError`, `DeviceGoneError`."""

    async def apply(self, changes: Sequence[PeerChange]) -> None:
        """Carry out the changes in their order; returns when the device has acknowledged the last.

        Raises `DeviceError` where one was refused (the earlier ones stay), `DeviceGoneError`.
        """

    async def configure(self, private_key: PrivateKey, listen_port: int) -> None:
        """Set the interface's own key and port, each only where it differs (a re-sent port cuts tunnels)."""


class PeerRelay(Protocol):
    """Carries the datagrams for one peer over relays: WireGuard sends them to a loopback port."""

    @property
    def address(self) -> SocketAddress:
        """Where WireGuard is to send to."""

    async def run(self) -> None:
        """Carry until cancelled."""

    def retarget(self, upstreams: Sequence[RelayUrl]) -> None:
        """Use other relays from now on."""

    @property
    def problem(self) -> str | None:
        """Why nothing gets through; None: something may."""

    def probe(self, to: SocketAddress, answered: Callable[[], None]) -> None:
        """See whether the peer answers by UDP, too; ``answered`` is called at most once, if it does."""

    def hold(self, *, on: bool) -> None:
        """Hand nothing on to WireGuard for a moment, or all of it again; nothing is lost meanwhile."""

    def snapshot(self) -> Mapping[str, Any]:
        """What an operator wants to see, as JSON can hold it."""


@dataclass(frozen=True, slots=True)
class LinkSettings:
    """How the interface should be: all of it is idempotent to apply."""

    name: str
    mtu: int
    addresses: frozenset[Cidr] | None
    """The interface's own addresses, such as ``10.77.0.2/32``; None: whatever it has."""
    routes: frozenset[Cidr]
    """Prefixes that go through the interface, and into a blackhole where it has gone."""


class Link(Protocol):
    """The network interface around a device."""

    async def start(self) -> Device:
        """Create the interface with its device, or adopt the one that is there; raises `DeviceError`."""

    async def configure(self, settings: LinkSettings) -> bool:
        """Make addresses, MTU, state and routes equal to the settings; raises `DeviceError`.

        Returns whether addresses, MTU or routes were not so.
        """

    def obstacle(self) -> str | None:
        """What has taken a route of ours, as of the last `configure`; None if nothing has."""

    @property
    def without_ipv6(self) -> bool:
        """Whether the host has refused IPv6 on the interface, as of the last `configure`."""

    async def gone(self) -> None:
        """Return when the device that `start` gave has vanished; `start` then sets it up anew."""

    async def is_up(self) -> bool:
        """Whether the interface exists and is up."""

    async def stop(self, *, keep: bool) -> None:
        """Take the interface and its routes away, or with ``keep`` only let go of them."""


@dataclass(frozen=True, slots=True, order=True)
class PortForward:
    """A port of ours in the tunnel that leads on to another machine."""

    protocol: str
    """``tcp`` or ``udp``."""
    port: int
    address: str
    to_port: int


@dataclass(frozen=True, slots=True)
class FirewallRules:
    """What the packet filter around an interface should do."""

    interface: str
    prefixes: frozenset[Cidr]
    """What belongs to the VPN."""
    protect: bool
    """Keep packets for the VPN, and those from it, from going another way."""
    closed: frozenset[tuple[str, int]] = frozenset()
    """Ports, by protocol, of WireGuard and of our relay: packets from the tunnel would go into it again."""
    port_forwards: frozenset[PortForward] = frozenset()


class Firewall(Protocol):
    """The packet filter; every method raises `FirewallError`."""

    async def apply(self, rules: FirewallRules) -> None:
        """Make our part of it be these rules, all at once."""

    async def is_applied(self, interface: str) -> bool:
        """Whether our part of it is still as `apply` has made it."""

    async def conflict(self, interface: str, versions: Collection[int]) -> str | None:
        """Which rule of others drops what we forward, by IP version, and what to do; None if none does."""

    async def remove(self, interface: str) -> None:
        """Take away what `apply` has made; it is no error if that is nothing."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What the store remembers of a registry: its state at ``finalized`` and the events seen since."""

    identity: ChainIdentity
    finalized: BlockRef
    nodes: tuple[Node, ...]
    events: tuple[LoggedEvent, ...]
    tip: BlockRef
    witnessed: frozenset[TokenId] = frozenset()
    """The tokens of `nodes` that a quorum of endpoints has vouched for, just as they are there."""
    synced: float | None = None
    """When the registry was last known to be what the chain says (Unix seconds)."""


class Store(Protocol):
    """Durable state. Cursor and events commit together; all methods raise `StoreError`."""

    async def load(self) -> Checkpoint | None:
        """What was last committed; None where there is nothing yet."""

    async def append(
        self,
        tip: BlockRef,
        added: Sequence[LoggedEvent],
        dropped: Sequence[LoggedEvent],
        synced: float | None = None,
    ) -> None:
        """In one transaction: move the tip and the time of `Checkpoint.synced`, add and forget events."""

    async def checkpoint(self, checkpoint: Checkpoint) -> None:
        """In one transaction: replace everything."""

    async def close(self) -> None:
        """Flush and close."""


class EndpointMemory(Protocol):
    """Where peers were heard last; a hint. Both methods raise `StoreError`."""

    async def load(self) -> Mapping[PublicKey, SocketAddress]:
        """What was saved last; empty where there is nothing yet."""

    async def save(self, endpoints: Mapping[PublicKey, SocketAddress]) -> None:
        """Replace everything."""


class AuditLog(Protocol):
    """The audit log: append-only, chained (`core.observe.audit_chain`). All methods raise `StoreError`."""

    def append(self, notes: Sequence[AuditRecord]) -> Anchor:
        """Record them in their order; returns the end of the chain."""

    def forget(self, *, now: float, before: float, largest: int) -> int:
        """Cut records by age (``before``, Unix seconds) and size (bytes), and record it; returns how many."""


class ConfigArchive(Protocol):
    """The wg-quick file, its backups, and the backup that the operator has pinned, if any."""

    async def write(self, text: str) -> None:
        """Where the text differs: replace the file atomically (0600), keep a backup. Raises `StoreError`."""

    async def pinned(self) -> str | None:
        """The text of the pinned backup; None without a pin. Raises `StoreError`."""


class KeyRing(Protocol):
    """Our own keys beside the one in use: the next one, and the one before."""

    def others(self) -> Mapping[PublicKey, PrivateKey]:
        """Those that we could take; raises nothing."""

    def use(self, key: PublicKey) -> None:
        """Have one of them be the key in use, and keep the present one; raises `StoreError`."""

    def settle(self) -> None:
        """The change can't be undone any more: forget the key before."""

    def made(self) -> float | None:
        """When the key in use was written (Unix seconds); None where nobody knows. Raises nothing."""


class KeyChanger(Protocol):
    """Makes our next key and announces it on chain."""

    hindrance: str | None
    """Why it can't, and what a person can do; None: it can."""

    async def change(self, token: TokenId) -> None:
        """Have the registry told of another key for our token; returns when that was mined.

        Raises `AdminError` where nothing came of it, or where nobody knows.
        """


class Resolver(Protocol):
    """Host names to addresses."""

    async def resolve(self, host: str, port: int) -> SocketAddress | None:
        """The preferred address; None where the name has none now."""


class Clock(Protocol):
    """Time, as an argument to a core that never reads it."""

    def now(self) -> float:
        """Unix seconds."""

    def monotonic(self) -> float:
        """Seconds that never go back."""
