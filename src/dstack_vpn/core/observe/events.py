"""Every event that a node publishes, defined once (`core.observe.event`).

The daemon publishes an event after it has come about: a change of a peer after the device has
acknowledged it, a chain event after the registry has taken it. The log, `/events`, the audit log
and the metrics are listeners of `EventLog`. Fields are validated before they get here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, get_args

from dstack_vpn.core.model import Address, TokenId
from dstack_vpn.core.observe.event import Event, Scalar
from dstack_vpn.core.wireguard.keys import PublicKey

_COMPARE: Final = "Compare the endpoints with `dstack-vpn doctor`; remove the wrong one from RPC_URL."


RoleName: TypeAlias = Literal["minter", "policy administrator", "owner", "pending owner"]

# -- the chain -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class EndpointFollowed(Event, name="chain.connected", logger="chain"):
    """The node follows an RPC endpoint."""

    endpoint: str
    """Scheme and host; never a path or a credential."""


@dataclass(frozen=True, slots=True)
class EndpointLost(Event, name="chain.lost", logger="chain"):
    """The node follows no RPC endpoint; it tries the next one."""

    problem: str


@dataclass(frozen=True, slots=True)
class EndpointQuarantined(Event, name="chain.quarantined", level="error", logger="chain", action=_COMPARE):
    """An RPC endpoint contradicted the others. The node does not use it for a while."""

    endpoint: str
    problem: str


@dataclass(frozen=True, slots=True)
class BudgetUsed(
    Event,
    name="rpc.budget",
    level="warning",
    logger="rpc",
    action="Raise RPC_DAILY_CALLS or SYNC_INTERVAL. `dstack-vpn doctor` shows the cost of a day.",
):
    """80 % of RPC_DAILY_CALLS was used since 00:00 UTC, or all of it (``spent``)."""

    calls: int
    budget: int
    spent: bool


@dataclass(frozen=True, slots=True)
class RegistryRead(Event, name="chain.read", logger="chain"):
    """The node has read the whole registry from the chain."""

    tokens: int
    block: int
    source: Literal["state", "logs"]
    """From the contract's state at one block, or from all of its logs."""
    seconds: float


@dataclass(frozen=True, slots=True)
class TokenChanged(Event, name="chain.event", logger="chain"):
    """The registry contract emitted an event, or a reorg took one back (``undone``)."""

    event: str
    """Such as ``granted`` or ``key updated``."""
    token: TokenId | None
    """None if the event names an owner and no token."""
    node: str | None
    owner: Address | None
    block: int
    log_index: int
    undone: bool = False
    detail: str | None = None
    """The tags or routes of an event that sets them; ``#5`` is a tag without a name."""

    @property
    def cause(self) -> str:
        """The name of this event as the cause of others: the same on every node."""
        return f"{self.block}-{self.log_index}"

    def shown(self) -> dict[str, Scalar]:
        """Return the fields and the cause."""
        return {**Event.shown(self), "cause": self.cause}


@dataclass(frozen=True, slots=True)
class TagNamed(Event, name="chain.tag", logger="chain"):
    """The registry's owner defined a tag, or a reorg took it back (``undone``)."""

    index: int
    """The bit in a node's tags."""
    tag: str
    block: int
    log_index: int
    undone: bool = False


@dataclass(frozen=True, slots=True)
class PolicyChanged(Event, name="chain.policy", logger="chain"):
    """The registry's policy was set or removed, or a reorg took that back (``undone``)."""

    policy: str | None
    """The Keccak-256 hash of the text; None: the policy was removed."""
    block: int
    log_index: int
    undone: bool = False


@dataclass(frozen=True, slots=True)
class PolicyTextRead(Event, name="chain.policy_read", logger="chain"):
    """The node has read the text of the policy. It has the policy's hash."""

    policy: str | None
    """See `PolicyChanged`."""
    bytes: int
    block: int


@dataclass(frozen=True, slots=True)
class PolicyInUse(Event, name="policy.in_force", logger="policy"):
    """The policies in force have changed, or the rights of this node under them."""

    policies: str | None
    """The first 8 digits of each policy's hash, ``file`` for POLICY_FILE; ``closed``: nothing is
    permitted; None: no policy restricts anything."""
    grants: int


@dataclass(frozen=True, slots=True)
class PolicyRefused(
    Event,
    name="policy.refused",
    level="error",
    logger="policy",
    action="Correct the policy with `dstack-vpn policy set`. `dstack-vpn policy check` shows problems.",
):
    """The registry's policy can't be used. The last good policy stays in force."""

    problem: str


@dataclass(frozen=True, slots=True)
class RulesApplied(Event, name="policy.applied", level="debug", logger="policy"):
    """The packet filter enforces the newest state of the policy and of its members."""

    members: int
    """Addresses with rights on this node."""
    groups: int
    latency: float | None
    """Seconds from the chain event's arrival to the kernel's acknowledgement; None for a repair."""


@dataclass(frozen=True, slots=True)
class PacketDenied(
    Event,
    name="policy.denied",
    logger="policy",
    action="`dstack-vpn policy explain` shows the reason.",
):
    """A member sent packets that no grant allows. Repetitions within a minute are one event."""

    source: str
    node: str | None
    """The member with that address."""
    destination: str
    protocol: str
    """``tcp``, ``udp``, ``icmp``, or the number of the IP protocol."""
    port: int
    """The destination port; 0 for a protocol without ports."""


@dataclass(frozen=True, slots=True)
class PacketsDenied(Event, name="policy.denied_many", logger="policy"):
    """Members sent packets to many ports that no grant allows."""

    entries: int
    """Different sources, destinations and ports."""


@dataclass(frozen=True, slots=True)
class RoleChanged(Event, name="chain.role", logger="chain"):
    """An account has or has lost a role in the registry; ``undone`` by a reorg."""

    role: RoleName
    account: Address | None
    """None: the offer of the ownership was withdrawn."""
    held: bool
    block: int
    log_index: int
    undone: bool = False


@dataclass(frozen=True, slots=True)
class MintingPaused(Event, name="chain.paused", logger="chain"):
    """The registry's owner stopped the minting of tokens or ended that; ``undone`` by a reorg."""

    paused: bool
    block: int
    log_index: int
    undone: bool = False


@dataclass(frozen=True, slots=True)
class InvitationUsed(Event, name="chain.invitation", logger="chain"):
    """An invitation was redeemed or cancelled; ``undone`` by a reorg."""

    event: Literal["redeemed", "cancelled"]
    invitation: str
    """Its EIP-712 hash."""
    token: TokenId | None
    """The token that was minted with it."""
    node: str | None
    block: int
    log_index: int
    undone: bool = False


@dataclass(frozen=True, slots=True)
class TokensChanged(Event, name="chain.events", logger="chain"):
    """The registry contract emitted many events at once."""

    added: int
    undone: int
    block: int


@dataclass(frozen=True, slots=True)
class Reorged(
    Event,
    name="chain.reorg",
    level="warning",
    logger="chain",
    action="Raise GRANT_CONFIRMATIONS if reorgs are deep or frequent.",
):
    """The chain replaced blocks; the node undid or moved the events in them."""

    depth: int
    """Blocks."""
    dropped: int
    added: int
    block: int


# -- access and peers ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Decided(Event, name="access.decided", level="debug", logger="registry"):
    """The decision about a token changed, by an event, a block, the time or a pin."""

    token: TokenId
    node: str | None
    granted: bool
    reason: str
    cause: str | None


@dataclass(frozen=True, slots=True)
class DecisionsChanged(
    Event,
    name="access.decided_many",
    level="debug",
    logger="registry",
    unnamed=frozenset({"decisions"}),
):
    """The decisions about many tokens changed at once. The audit log has a record for each."""

    granted: int
    refused: int
    decisions: tuple[Decided, ...]


@dataclass(frozen=True, slots=True)
class PeerSet(Event, name="peer.set", logger="device"):
    """The device has a new peer (``added``), or a peer changed."""

    peer: PublicKey
    token: TokenId | None
    node: str | None
    owner: Address | None
    reason: str
    added: bool
    block: int | None
    latency: float | None
    """Seconds from the chain event's arrival to the device's acknowledgement; None for a repair."""
    cause: str | None = None
    """The token's last event (`TokenChanged.cause`); None if there was none since the start."""


@dataclass(frozen=True, slots=True)
class PeerRemoved(Event, name="peer.removed", logger="device"):
    """The device has removed a peer."""

    peer: PublicKey
    token: TokenId | None
    node: str | None
    owner: Address | None
    reason: str
    block: int | None
    latency: float | None
    """See `PeerSet`."""
    cause: str | None = None
    """See `PeerSet`."""


@dataclass(frozen=True, slots=True)
class PeersChanged(Event, name="peers.changed", logger="device"):
    """Many peers changed at once."""

    set: int
    removed: int
    block: int | None
    latency: float | None
    """See `PeerSet`."""


@dataclass(frozen=True, slots=True)
class PeerRefused(
    Event, name="peer.refused", level="error", logger="device", action="Read `problem`; report it."
):
    """The device refused a peer. The other peers stay."""

    peer: PublicKey
    token: TokenId | None
    problem: str


@dataclass(frozen=True, slots=True)
class FieldRefused(
    Event,
    name="token.refused",
    level="warning",
    logger="registry",
    action="Inform the token's owner.",
):
    """A field of a token can't be used."""

    token: TokenId
    field: str
    problem: str


@dataclass(frozen=True, slots=True)
class ExitUsed(Event, name="exit.used", logger="registry"):
    """Everything leaves by a node (EXIT_NODE), or by another one than before."""

    node: str
    token: TokenId
    former: str | None
    """The exit before; None if nothing left."""
    ipv4: bool
    ipv6: bool


@dataclass(frozen=True, slots=True)
class ExitBlocked(
    Event,
    name="exit.blocked",
    level="error",
    logger="registry",
    action="Read `reason`: correct EXIT_NODE, or the routes of the nodes that it names.",
):
    """No node that EXIT_NODE names can be used. Only control traffic leaves this machine."""

    reason: str


@dataclass(frozen=True, slots=True)
class NetworkReached(Event, name="network.reached", logger="registry"):
    """The node reaches a network by a gateway (ACCEPT_ROUTES), or by another one than before."""

    network: str
    token: TokenId
    node: str | None
    """The gateway."""
    former: str | None
    """The gateway before; None if the network was not reached."""


@dataclass(frozen=True, slots=True)
class NetworkLeft(Event, name="network.left", level="warning", logger="registry"):
    """The node does not reach a network by a gateway any more."""

    network: str
    former: str | None
    """The last gateway."""
    reason: str


@dataclass(frozen=True, slots=True)
class NetworkRefused(
    Event,
    name="network.refused",
    level="warning",
    logger="registry",
    action="Remove the conflict, or leave the network out of ACCEPT_ROUTES.",
):
    """A network behind a node conflicts with this host. Its packets do not go into the tunnel."""

    network: str
    problem: str


@dataclass(frozen=True, slots=True)
class RouteRefused(
    Event,
    name="route.refused",
    level="warning",
    logger="registry",
    action="Correct this node's routes with `dstack-vpn node routes`.",
):
    """A route of this node's own token can't be used. The node does not forward to it."""

    problem: str


@dataclass(frozen=True, slots=True)
class TransportChanged(Event, name="peer.transport", logger="relay"):
    """The node reaches a peer in another way."""

    peer: PublicKey
    token: TokenId | None
    node: str | None
    way: Literal["udp", "relay"]


@dataclass(frozen=True, slots=True)
class PeerSilent(
    Event,
    name="peer.no_answer",
    level="warning",
    logger="device",
    action="Check whether that node runs, and its firewall.",
):
    """Bytes go to a peer and none come back."""

    peer: PublicKey
    token: TokenId | None
    node: str | None


@dataclass(frozen=True, slots=True)
class PeerAnswered(Event, name="peer.answered", logger="device"):
    """A silent peer answers again."""

    peer: PublicKey
    token: TokenId | None
    node: str | None


@dataclass(frozen=True, slots=True)
class PeersAnswering(
    Event,
    name="peers.answering",
    level="warning",
    logger="device",
    action="Check this machine's network if most peers are silent.",
):
    """Many peers became silent or answer again at once."""

    silent: int
    answering: int


# -- plans -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PlanFailed(Event, name="plan.failed", level="error", logger="device", action="Read `problem`."):
    """The device refused a plan, or vanished while it was applied. The node repairs the device."""

    steps: int
    problem: str
    rolled_back: bool


@dataclass(frozen=True, slots=True)
class BrakeEngaged(
    Event,
    name="brake.engaged",
    level="error",
    logger="device",
    action="If this was not intended, check the registry's owner and the RPC endpoints.",
):
    """Removals of more than half of the peers within an hour wait for a second reading."""

    removals: int
    peers: int


@dataclass(frozen=True, slots=True)
class BrakeReleased(Event, name="brake.released", level="warning", logger="device"):
    """A second reading of the registry confirmed removals that waited."""

    removals: int


@dataclass(frozen=True, slots=True)
class BrakeContradicted(Event, name="brake.contradicted", level="error", logger="device", action=_COMPARE):
    """A second reading of the registry still has members whose removal waits or was applied."""

    endpoint: str
    peers: int


@dataclass(frozen=True, slots=True)
class PinChanged(
    Event,
    name="config.pin",
    level="warning",
    logger="store",
    action="Run `dstack-vpn config resume` to follow the registry again.",
):
    """The operator pinned a backup of the configuration, or (``peers`` is null) resumed."""

    peers: int | None


# -- early revocations -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class EarlyUnavailable(
    Event,
    name="early.unavailable",
    level="warning",
    logger="chain",
    action="Unset REVOKE_EARLY, or use an endpoint and a name that announce logs of pre-confirmed blocks.",
):
    """The endpoint announces no pre-confirmed events, so revocations wait for their blocks."""

    endpoint: str
    problem: str


@dataclass(frozen=True, slots=True)
class EarlyRemovalFalse(
    Event,
    name="early.false",
    level="warning",
    logger="chain",
    action="If this repeats, unset REVOKE_EARLY or replace the endpoint.",
):
    """The chain lacks an event that was pre-confirmed. Early removals pause for an hour."""

    tokens: int
    """Tokens that were out because of it, and are decided by the registry again."""
    token: TokenId
    """One of them."""


# -- the node --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class KeyChanged(Event, name="key.changed", level="warning", logger="node"):
    """The registry names another key of this node, and the node uses it."""

    key: PublicKey


@dataclass(frozen=True, slots=True)
class KeyChangeFailed(
    Event, name="key.change_failed", level="warning", logger="node", action="Read `problem`."
):
    """The node's key is old, and a new one could not be registered. The old key stays in use."""

    tries: int
    """In a row."""
    problem: str
    again_in: int
    """Seconds."""


@dataclass(frozen=True, slots=True)
class HealthChanged(
    Event, name="health.changed", logger="node", action="Read `reason` if the status is not ok."
):
    """A component of the health has another status or reason."""

    component: str
    before: str
    status: str
    reason: str


NodeEvent: TypeAlias = (
    EndpointFollowed
    | EndpointLost
    | EndpointQuarantined
    | BudgetUsed
    | RegistryRead
    | TokenChanged
    | TokensChanged
    | TagNamed
    | PolicyChanged
    | PolicyTextRead
    | PolicyInUse
    | PolicyRefused
    | RulesApplied
    | PacketDenied
    | PacketsDenied
    | RoleChanged
    | MintingPaused
    | InvitationUsed
    | Reorged
    | Decided
    | DecisionsChanged
    | PeerSet
    | PeerRemoved
    | PeersChanged
    | PeerRefused
    | FieldRefused
    | ExitUsed
    | ExitBlocked
    | NetworkReached
    | NetworkLeft
    | NetworkRefused
    | RouteRefused
    | TransportChanged
    | PeerSilent
    | PeerAnswered
    | PeersAnswering
    | PlanFailed
    | BrakeEngaged
    | BrakeReleased
    | BrakeContradicted
    | EarlyUnavailable
    | EarlyRemovalFalse
    | PinChanged
    | KeyChanged
    | KeyChangeFailed
    | HealthChanged
)

EVENTS: Final[Mapping[str, type[Event]]] = {each.name: each for each in get_args(NodeEvent)}
"""By name."""
