"""The ports: the interfaces through which the daemon uses the outside world.

`adapters` implements these, and `daemon` uses the outside world only through them. Every method may
raise the errors that are named here, and no others.
"""

from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple, Protocol, TypeAlias

from dstack_vpn.core.access.early import EarlySubscription, Preconfirmed
from dstack_vpn.core.access.replies import Question, Reply
from dstack_vpn.core.chain.agreement import Revision
from dstack_vpn.core.chain.contract import ContractState
from dstack_vpn.core.chain.events import LoggedEvent, PolicyRead, RegistryEvent, TokenState
from dstack_vpn.core.chain.extension import Extension
from dstack_vpn.core.chain.node import Node
from dstack_vpn.core.chain.usage import UsageByEndpoint
from dstack_vpn.core.chain.usage_days import UsageDays
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
from dstack_vpn.core.ownership import AddressFact, RouteFact
from dstack_vpn.core.paths.relay_url import RelayUrl
from dstack_vpn.core.policy.rules import GrantId, PolicyRules
from dstack_vpn.core.policy.selection import GoodPolicy
from dstack_vpn.core.wireguard.keys import PrivateKey, PublicKey

Publish: TypeAlias = Callable[[Event], None]
"""Publishes an event; it does not wait and does not raise."""


@dataclass(frozen=True, slots=True)
class Log:
    """An event log of the registry contract from an endpoint; field formats are checked."""

    topics: tuple[str, ...]
    """``0x`` and 64 lower-case digits each."""
    data: bytes
    block_number: int
    block_hash: str
    log_index: int
    removed: bool


class RegistryAbi(Protocol):
    """The interface of one registry contract: a pure codec between its ABI and the core's events.

    Every parser validates its input (text from the chain is hostile) and raises only `FormatError`.
    """

    name: str
    topics: frozenset[str]
    """The first topics of the events that it decodes."""
    rereads: frozenset[type[RegistryEvent]]
    """Events that do not determine a token's state: the token is read again at that block."""
    page_size: int
    """Tokens per `page_call`; 0 if the contract can't enumerate."""
    revision_call: bytes | None
    """The calldata that reads the number of changes so far; None if the contract has no such
    counter."""

    def decode(self, log: Log) -> RegistryEvent | None:
        """Decode a log; None if the registry does not need it (such as the mint's `Transfer`)."""

    def token_calls(self, token_id: TokenId) -> tuple[bytes, ...]:
        """Return the calldata of the ``eth_call`` requests that together read a token."""

    def parse_token(self, token_id: TokenId, replies: Sequence[bytes | None], at: BlockRef) -> TokenState:
        """Parse the replies to `token_calls`, in their order; None is a call that reverted."""

    def page_call(self, offset: int, limit: int) -> bytes:
        """Return the calldata that reads up to ``limit`` tokens from the ``offset``-th on."""

    def parse_page(self, reply: bytes, at: BlockRef) -> tuple[list[TokenState], int]:
        """Return the page's tokens, and the number of all tokens."""

    def parse_revision(self, reply: bytes) -> int:
        """Parse the reply to `revision_call`."""

    def contract_calls(self) -> tuple[bytes, ...]:
        """Return the calldata that reads the contract's own state; empty if it has none."""

    def parse_contract(self, replies: Sequence[bytes | None]) -> ContractState:
        """Parse the replies to `contract_calls`; the policy has no text."""

    def policy_calls(self) -> tuple[bytes, ...]:
        """Return the calldata that reads the policy; empty if the contract can't have one."""

    def parse_policy(self, replies: Sequence[bytes | None]) -> PolicyRead:
        """Parse the replies to `policy_calls`, and check the text; this takes up to 0.2 s."""


@dataclass(frozen=True, slots=True)
class Unannounced:
    """A head whose logs the endpoint may not announce: they must be fetched."""

    block: BlockRef


EarlyFact: TypeAlias = Preconfirmed | EarlySubscription
"""A pre-confirmed event, and whether the endpoint announces any. Sent only if it is a setting."""

ChainFact: TypeAlias = BlockRef | LoggedEvent
"""A new head or a log that an endpoint sends without a request. The order is not defined."""


class HeadNeeds(Protocol):
    """The need for heads that are not announced."""

    def needs_heads(self) -> bool:
        """Return True while something waits for the next blocks."""

    def extendable(self) -> BlockRef | None:
        """Return our tip if an `Extension` of it is enough; None if a header is needed."""


class ChainSession(Protocol):
    """A connection to one RPC endpoint, whose chain and contract have been checked.

    Every call has a deadline. It raises `EndpointError` if the session has become unusable (leave
    it and open the next one), `RetryError` after its own retries without success, or `RangeError`.
    """

    name: str
    """The endpoint for logs and metrics: scheme and host, without credentials or path."""
    identity: ChainIdentity
    rereads: frozenset[type[RegistryEvent]]
    """See `RegistryAbi.rereads`."""
    announces_logs: bool
    """True if `facts` has logs; otherwise it has only heads, and their logs must be fetched."""
    announces_heads: bool
    """True if `facts` has every head; otherwise it has heads at intervals."""

    def facts(self) -> AsyncIterator[ChainFact | Unannounced | EarlyFact]:
        """Return heads and logs from now on until the session fails; logs are subscribed first.

        The first fact is the latest block. If logs are announced, those of all blocks above it are.
        The heads of `polls` are not among them.
        """

    def polls(self, needs: HeadNeeds) -> AsyncIterator[BlockRef | Extension]:
        """Return polled heads at intervals, and as ``needs`` requires, after the first of `facts`.

        The iteration ends at once if all heads are among the facts.
        """

    async def head(self) -> BlockRef:
        """Return the latest block."""

    async def extension(self, *known: BlockRef) -> Extension | None:
        """Return the end of the chain that has these blocks, the first of which is our tip.

        Returns None if the endpoint does not show that with one small call: its headers then do.
        """

    async def header(self, number: int) -> BlockRef | None:
        """Return the canonical block at that number; None past the head."""

    async def finalized(self) -> BlockRef | None:
        """Return the newest final block; None if the chain does not report it."""

    async def events(self, first: int, last: int) -> list[LoggedEvent]:
        """Return all registry events of blocks ``first`` to ``last``, inclusive, in order."""

    async def events_up_to(self, first: int, last: BlockRef) -> list[LoggedEvent] | None:
        """Return all registry events from block ``first`` to ``last``, in order.

        Returns None if the block ``last``, by hash, was replaced. Raises `LogsError` if the
        endpoint does not serve logs, or too few at once, and the state can be read instead.
        """

    async def block_events(self, block_hash: str) -> list[LoggedEvent]:
        """Return all registry events of one block.

        Raises `EndpointError` if the endpoint does not have the block.
        """

    async def read_tokens(self, tokens: Sequence[TokenId], at: BlockRef) -> list[TokenState]:
        """Return the tokens' state after that block, by hash (EIP-1898)."""

    async def read_all(self, at: BlockRef) -> list[TokenState] | None:
        """Return every token's state after that block; None if the contract can't enumerate."""

    async def revision(self, at: BlockRef) -> Revision | None:
        """Return a value that stands for the contract's state after that block.

        It is the number of changes of a contract that counts them. Every change of what `read_all`
        returns raises it. Otherwise it is the root hash of the contract's storage (EIP-1186), or
        None if the endpoint does not serve it.
        """

    async def read_contract(self, at: BlockRef) -> ContractState | None:
        """Return the contract's own state after that block; None if it has none.

        The policy has no text.
        """

    async def read_policy(self, at: BlockRef) -> PolicyRead:
        """Return the policy with its text after that block.

        Raises `EndpointError` if the text does not have the endpoint's own hash.
        """

    async def first_block(self) -> int:
        """Return the earliest block that can have an event of the contract."""


@dataclass(frozen=True, slots=True)
class Quarantine:
    """The quarantine of an endpoint that was contradicted."""

    times: int
    reason: str
    """The reason of the last quarantine."""
    seconds_left: float
    """0 if it is over."""


class ChainSource(Protocol):
    """The configured endpoints, used in turn, with growing pauses after failures."""

    def session(self) -> AbstractAsyncContextManager[ChainSession]:
        """Connect to the next endpoint, after the pause that its failures require.

        Raises `EndpointError` if it can't be reached, `WrongChainError` if it serves another chain
        or contract.
        """

    def other(self, *, than: str) -> AbstractAsyncContextManager[ChainSession]:
        """Connect to another endpoint if one is ready, else to the same one, for a comparison.

        Raises the same errors as `session`.
        """

    def others(self, *, than: str) -> Sequence[str]:
        """Return the names of endpoints on other hosts, one per host, not in quarantine."""

    def to(self, name: str) -> AbstractAsyncContextManager[ChainSession]:
        """Connect to that endpoint, after the pause that its failures require.

        Raises the same errors as `session`.
        """

    def quarantine(self, name: str, reason: str) -> None:
        """Do not use the endpoint's host, for longer each time: it was contradicted."""

    def quarantined(self) -> Mapping[str, Quarantine]:
        """Return the quarantines of all endpoints that ever had one, by name."""

    def usage(self) -> UsageByEndpoint:
        """Return the use of each endpoint since the start."""


class Verifier(Protocol):
    """An independent source of the state at one of this node's blocks.

    The current implementation is another endpoint, one of several. A proof of membership
    (``eth_getProof`` against the state root of a block on which k endpoints agree) could replace
    it: a `Reply` would then come from the proven storage instead of an endpoint's data.
    """

    @property
    def name(self) -> str:
        """Return the endpoint's name."""

    @property
    def problem(self) -> str | None:
        """Return the reason that it can't be queried now; None if it can, or if this is unknown."""

    async def query(self, question: Question) -> Reply:
        """Ask a question; raises `ChainError` without a reply in time."""


class Device(Protocol):
    """A WireGuard device. Changes are neither atomic nor durable (docs/decisions/0026)."""

    async def read(self) -> DeviceState:
        """Read the whole state; raises `DeviceError`, `DeviceGoneError`."""

    async def apply(self, changes: Sequence[PeerChange]) -> None:
        """Apply the changes in their order; returns when the device has acknowledged the last.

        Raises `DeviceError` if one was refused (the earlier ones stay), `DeviceGoneError`.
        """

    async def configure(self, private_key: PrivateKey, listen_port: int, mark: int | None = None) -> None:
        """Set the device's own key and port, and the mark of its packets, if they differ.

        A port that is set again to the same value interrupts tunnels. Without a ``mark``, the
        device keeps its own.
        """


class PeerRelay(Protocol):
    """A carrier of one peer's datagrams over relays; WireGuard sends them to a loopback port."""

    @property
    def address(self) -> SocketAddress:
        """Return the address to which WireGuard must send."""

    async def run(self) -> None:
        """Carry datagrams until cancelled."""

    def retarget(self, upstreams: Sequence[RelayUrl]) -> None:
        """Change to other relays."""

    @property
    def problem(self) -> str | None:
        """Return the reason that nothing passes; None if datagrams may pass."""

    def probe(self, to: SocketAddress, answered: Callable[[], None]) -> None:
        """Test if the peer also answers by UDP; ``answered`` is called at most once, if it does."""

    def hold(self, *, on: bool) -> None:
        """Suspend or resume delivery to WireGuard; held datagrams are not lost."""

    def snapshot(self) -> Mapping[str, Any]:
        """Return the state for operators, in JSON types."""


@dataclass(frozen=True, slots=True)
class LinkSettings:
    """The desired settings of the interface; applying them is idempotent."""

    name: str
    mtu: int
    addresses: frozenset[Cidr] | None
    """The interface's own addresses, such as ``10.77.0.2/32``; None: unchanged."""
    routes: frozenset[Cidr]
    """Prefixes routed through the interface, and into a blackhole after its removal."""
    networks: frozenset[Cidr] | None = frozenset()
    """Networks behind other nodes, routed likewise, unless another program has a route to the same
    network; None: those of an earlier `Link.configure` or process stay."""
    exit_mark: int | None = None
    """Packets without this mark leave by the interface, or not at all; None: as the host routes
    them."""


@dataclass(frozen=True, slots=True)
class HostRoutes:
    """The addresses and routes of this host, of all programs."""

    index: int
    """The index of our interface."""
    routes: Sequence[RouteFact]
    addresses: Sequence[AddressFact]


class Link(Protocol):
    """The network interface around a device."""

    async def start(self) -> Device:
        """Create the interface with its device, or adopt an existing one; raises `DeviceError`."""

    async def configure(self, settings: LinkSettings) -> bool:
        """Make addresses, MTU, state and routes equal to the settings; raises `DeviceError`.

        Returns whether addresses, MTU or routes differed before.
        """

    async def survey(self, prefixes: Collection[Cidr]) -> HostRoutes:
        """Return all addresses, and the main table's routes that overlap these prefixes.

        Raises `DeviceError`.
        """

    def obstacle(self) -> str | None:
        """Return the route that conflicts with the tunnel's at the last `configure`, or None."""

    @property
    def without_ipv6(self) -> bool:
        """Return whether the host refused IPv6 on the interface at the last `configure`."""

    async def gone(self) -> None:
        """Wait until the device from `start` has been removed; `start` sets it up again."""

    async def edited(self) -> None:
        """Wait until the interface's addresses may have changed, also by ourselves.

        Raises `DeviceError` before `start`. Only one task waits at a time.
        """

    async def is_up(self) -> bool:
        """Return whether the interface exists and is up."""

    async def stop(self, *, keep: bool) -> None:
        """Remove the interface and its routes, or with ``keep`` only release them."""


@dataclass(frozen=True, slots=True, order=True)
class PortForward:
    """A port at this node's tunnel addresses that is forwarded to another machine."""

    protocol: str
    """``tcp`` or ``udp``."""
    port: int
    address: str
    to_port: int


@dataclass(frozen=True, slots=True)
class FirewallRules:
    """The desired rules of the packet filter around an interface."""

    interface: str
    prefixes: frozenset[Cidr]
    """The prefixes of the VPN."""
    protect: bool
    """Block packets to and from the VPN outside the interface."""
    closed: frozenset[tuple[str, int]] = frozenset()
    """Ports, by protocol, of WireGuard and of the node's relay, closed to packets from the tunnel.

    Such packets would enter the tunnel again.
    """
    port_forwards: frozenset[PortForward] = frozenset()
    policy: PolicyRules | None = None
    """The packets from the tunnel that are accepted; None: no policy restricts them."""
    forwarded: frozenset[str] = frozenset()
    """The tunnel addresses that this node forwards for, within the tunnel. Under a policy, each of
    them is in one of its views."""
    networks: frozenset[Cidr] | None = None
    """The networks behind this node to which it forwards; None: it never had one.

    One of prefix length 0 stands for the internet. Under a policy, each of them is in its zones.
    """
    keeps_source: bool = False
    """Networks see the members' addresses, not this node's. The internet never does."""
    exits: bool = False
    """Containers behind this node leave by its exit, with this node's address: they get replies."""


class Forwarding(StrEnum):
    """The targets of packets that this node forwards from the tunnel."""

    PORTS = "FORWARD_TO"
    CLIENTS = "clients"
    """Within the tunnel."""
    NETWORKS = "networks"


@dataclass(frozen=True, slots=True)
class ExitGuard:
    """The kill switch: what may leave this machine while everything leaves by an exit."""

    interface: str
    prefixes: frozenset[Cidr]
    """The prefixes of the VPN."""
    mark: int
    """The mark of packets that leave outside of the tunnel."""
    allow_lan: bool = False
    """Packets to private and link-local addresses may leave outside of the tunnel."""
    versions: frozenset[int] = frozenset({4, 6})
    """The IP versions that the exit has. Packets of others are rejected."""
    within: frozenset[Cidr] = frozenset()
    """All prefixes within the tunnel that do not need the exit."""


class PacketCount(NamedTuple):
    """Packets and their bytes."""

    packets: int
    bytes: int


class DeniedPackets(NamedTuple):
    """Packets from a member that no grant allows, since the member's first within a minute."""

    source: str
    destination: str
    protocol: int
    """The number of the IP protocol: 6 is TCP, 17 is UDP."""
    port: int
    """The destination port; 0 for a protocol without ports."""
    packets: int


@dataclass(frozen=True, slots=True)
class PolicyCounts:
    """The counts of the packet filter under a policy since the table was made."""

    granted: Mapping[GrantId, PacketCount]
    """By the grant that allowed them. Grants without rules on this node are left out."""
    denied: PacketCount
    recent: tuple[DeniedPackets, ...]
    """The denied packets of the last minute; at most 1,024 entries for each kind of address."""


class Firewall(Protocol):
    """The packet filter; every method raises `FirewallError`."""

    async def apply(self, rules: FirewallRules) -> None:
        """Make dstack-vpn's part of the packet filter equal to these rules.

        Only differences to the rules before are sent, so that counters go on. At no moment is a
        right open that both the old and the new rules lack.
        """

    async def is_present(self, interface: str, *, with_policy: bool = False) -> bool:
        """Return whether dstack-vpn has made rules, now or before a restart.

        With ``with_policy``, only rules that enforce a policy count.
        """

    async def is_applied(self, interface: str) -> bool:
        """Return whether dstack-vpn's part of the packet filter is still as `apply` set it."""

    async def edited(self) -> None:
        """Wait until another program has changed any table. Only one task waits at a time."""

    async def count(self, interface: str) -> PolicyCounts:
        """Return what was counted under the policy; zeros without one."""

    async def conflict(self, interface: str, versions: Collection[int], where: Forwarding) -> str | None:
        """Return another program's rule that drops forwarded packets, with the remedy, or None.

        Only rules for the given IP ``versions`` count.
        """

    async def forwards_nothing(self, versions: Collection[int]) -> str | None:
        """Return the setting by which the kernel forwards no packets, with the remedy, or None."""

    async def remove(self, interface: str) -> None:
        """Remove the rules of `apply`; it is not an error if they do not exist."""

    async def guard(self, guard: ExitGuard) -> None:
        """Set or change the kill switch; it was in force or is in force at any moment."""

    async def is_guarded(self, interface: str) -> bool:
        """Return whether the kill switch is as `guard` set it."""

    async def unguard(self, interface: str) -> None:
        """Remove a kill switch, also one of an earlier process; a missing one is not an error."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A stored registry: its state at ``finalized``, and the events since then."""

    identity: ChainIdentity
    finalized: BlockRef
    nodes: tuple[Node, ...]
    events: tuple[LoggedEvent, ...]
    tip: BlockRef
    confirmed: frozenset[TokenId] = frozenset()
    """The tokens of `nodes` that a quorum of endpoints has confirmed, exactly as stored.

    `CONTRACT` stands for `contract`.
    """
    synced: float | None = None
    """The time at which the chain last confirmed the registry (Unix seconds)."""
    contract: ContractState = field(default_factory=ContractState)
    """The state of the contract itself at `finalized`."""
    policy: GoodPolicy | None = None
    """The last good policy; None if there was none yet."""


class Store(Protocol):
    """The durable state. Cursor and events commit together; all methods raise `StoreError`."""

    async def load(self) -> Checkpoint | None:
        """Return the last committed state; None without one."""

    async def append(
        self,
        tip: BlockRef,
        added: Sequence[LoggedEvent],
        dropped: Sequence[LoggedEvent],
        synced: float | None = None,
    ) -> None:
        """Move the tip and `Checkpoint.synced`, add and delete events, in one transaction."""

    async def checkpoint(self, checkpoint: Checkpoint) -> None:
        """Replace everything, in one transaction."""

    async def keep_policy(self, policy: GoodPolicy) -> None:
        """Set `Checkpoint.policy`."""

    async def close(self) -> None:
        """Flush and close."""


class EndpointMemory(Protocol):
    """The last known endpoints of peers, as a hint. Both methods raise `StoreError`."""

    async def load(self) -> Mapping[PublicKey, SocketAddress]:
        """Return the endpoints that were saved last; empty without any."""

    async def save(self, endpoints: Mapping[PublicKey, SocketAddress]) -> None:
        """Replace everything."""


class UsageMemory(Protocol):
    """The use of RPC endpoints on the last days. Both methods raise `StoreError`."""

    async def load(self) -> UsageDays:
        """Return the days that were saved last; empty without any."""

    async def save(self, days: UsageDays) -> None:
        """Replace everything."""


class AuditLog(Protocol):
    """The audit log: append-only and chained (`core.observe.audit_chain`).

    All methods raise `StoreError`.
    """

    def append(self, notes: Sequence[AuditRecord]) -> Anchor:
        """Append the records in their order; returns the end of the chain."""

    def forget(self, *, now: float, before: float, largest: int) -> int:
        """Delete records by age (``before``, Unix seconds) and by size (``largest``, bytes).

        Each cut is recorded. Returns the number of deleted records.
        """


class ConfigArchive(Protocol):
    """The wg-quick file, its backups, and the backup that the operator has pinned, if any."""

    async def write(self, text: str) -> None:
        """Replace the file atomically (0600) if the text differs, and keep a backup.

        Raises `StoreError`.
        """

    async def pinned(self) -> str | None:
        """Return the text of the pinned backup; None without a pin. Raises `StoreError`."""


class KeyRing(Protocol):
    """The node's other keys: the next and the previous one."""

    def others(self) -> Mapping[PublicKey, PrivateKey]:
        """Return the keys that could be used instead; raises nothing."""

    def use(self, key: PublicKey) -> None:
        """Make one of them the current key, and keep the former one; raises `StoreError`."""

    def settle(self) -> None:
        """Delete the previous key: the change is final."""

    def made(self) -> float | None:
        """Return the time at which the current key was written (Unix seconds); None if unknown.

        Raises nothing.
        """


class KeyChanger(Protocol):
    """The generator of the node's next key, which it registers on chain."""

    hindrance: str | None
    """The reason that it can't change the key, with the remedy; None if it can."""

    async def change(self, token: TokenId) -> None:
        """Register another key for the node's token; return after the transaction was mined.

        Raises `AdminError` if it failed, or if its outcome is unknown.
        """


class Echo(Protocol):
    """ICMP echoes to peers, which their kernels answer."""

    def start(self, replied: Callable[[int, str, float], None]) -> str | None:
        """Prepare for echoes; returns the reason that none can be sent, or None.

        ``replied`` gets each reply's nonce, its source address, and its time (Unix seconds). A
        reply may have any nonce: it may belong to another program.
        """

    def send(self, address: str, nonce: int) -> float:
        """Send an echo with a nonce of 64 bits; returns the time (Unix seconds).

        Raises nothing: an echo that can't be sent gets no reply.
        """

    def close(self) -> None:
        """Stop; `start` may be called again."""


class Resolver(Protocol):
    """The resolver of host names."""

    async def resolve(self, host: str, port: int) -> SocketAddress | None:
        """Return the preferred address; None if the name currently has no address."""


class Clock(Protocol):
    """The clocks, whose values are arguments to the core."""

    def now(self) -> float:
        """Return the Unix time in seconds."""

    def monotonic(self) -> float:
        """Return seconds that never decrease."""
