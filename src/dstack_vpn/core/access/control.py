"""Access control: the members that are on the network now, with the reasons.

`AccessControl` evaluates one registry state for one node. It is the only source of peers: the
device gets exactly those that `granted` yields.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Final

from dstack_vpn.core.access.addressing import AddressPlan
from dstack_vpn.core.access.contract_quorum import Rules
from dstack_vpn.core.access.quorum import Quorum
from dstack_vpn.core.access.replies import routes_of
from dstack_vpn.core.chain.node import Node
from dstack_vpn.core.chain.registry import Registry
from dstack_vpn.core.model import Address, Cidr, Malformed, Position, TokenId
from dstack_vpn.core.policy.compiler import PolicyConnections, Subject
from dstack_vpn.core.wireguard.keys import PublicKey


class Reason(StrEnum):
    """The reason that a node is, or is not, on the network."""

    ACTIVE = "active"
    REVOKED = "revoked"
    EARLY = "revoked in a block that is not confirmed yet"
    EXPIRED = "expired"
    TRANSFERRED = "transferred without a new key"
    NO_KEY = "no key"
    MALFORMED_KEY = "malformed key"
    MALFORMED_NODE_ID = "malformed node id"
    OWN_KEY = "own key"
    COPIED_KEY = "our key, registered for a token that is not ours"
    UNCONFIRMED = "unconfirmed"
    NO_QUORUM = "no quorum"
    NO_ADDRESS = "token id beyond the address range"
    UNSETTLED = "not confirmed by the chain since the start"
    ISOLATED = "the registry was not confirmed for too long"
    PINNED_OUT = "not in the pinned configuration"
    UNENFORCED = "the policy can't be enforced on this node"
    NO_GATEWAY = "its gateway can't be used"
    NO_GRANT = "no grant of the policy connects this node with it"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Decision:
    """The decision about one node: granted or not, and the reason."""

    granted: bool
    reason: Reason
    node: Node | None = None
    detail: str = ""
    ends: int = 0
    """The last Unix second of the granted access; 0: no expiry."""
    tags: int = 0
    """The granted tags, as a bit mask: also of this node's own token, and of a member that no grant
    of the policy connects with it."""
    routes: tuple[Cidr, ...] = ()
    """The granted networks behind the node, in the same cases."""
    gateway: Node | None = None
    """The gateway of a plain client that is granted; it can be this node."""

    def __str__(self) -> str:
        return f"{self.reason.value} ({self.detail})" if self.detail else self.reason.value


_UNKNOWN = Decision(granted=False, reason=Reason.UNKNOWN)


GATEWAY: Final = "gateway"
"""The tag of the nodes that plain clients may use as their gateway."""


@dataclass(frozen=True, slots=True)
class Admission:
    """The keys that this node admits, independent of the registry's grants."""

    only: frozenset[PublicKey] | None = None
    """The only keys that are admitted; None: every key."""
    otherwise: Reason = Reason.UNSETTLED
    """The reason for refusing a key that is not in ``only``."""
    pinned: frozenset[PublicKey] | None = None
    """The keys of the configuration that the operator has pinned; None: nothing is pinned."""
    unenforced: bool = False
    """True if a policy can't be enforced: no key is admitted."""

    @property
    def is_closed(self) -> bool:
        """Return whether no key is admitted at all."""
        return self.unenforced or self.only == frozenset()

    def refuses(self, key: PublicKey) -> Reason | None:
        """Return the reason for refusing this key, or None."""
        if self.unenforced:
            return Reason.UNENFORCED
        if self.only is not None and key not in self.only:
            return self.otherwise
        if self.pinned is not None and key not in self.pinned:
            return Reason.PINNED_OUT
        return None


EVERYONE = Admission()
"""Admits every key that the registry grants."""


@dataclass(frozen=True, slots=True)
class NodeIdentity:
    """The identification of this node's own token, beside its key.

    A public key proves nothing: an account that sees it in a pending transaction can register it
    for another token. A node that took that token for its own would use another's address and name.
    """

    node_id: str | None = None
    """NODE_ID."""
    account: Address | None = None
    """The account that must hold the token; used if there is no node id."""
    last: Node | None = None
    """Our last known token; used if there is neither. Another token of its owner is accepted."""

    def matches(self, node: Node) -> bool:
        """Return whether that token can be ours."""
        if self.node_id is not None:
            return node.node_id == self.node_id
        if self.account is not None:
            return node.owner.lower() == self.account
        last = self.last
        return last is None or last.token_id == node.token_id or last.owner == node.owner

    @property
    def is_key_alone(self) -> bool:
        """Return whether nothing beside the key is known."""
        return self.node_id is None and self.account is None and self.last is None

    def __str__(self) -> str:
        if self.node_id is not None:
            return f"NODE_ID is {self.node_id}"
        if self.account is not None:
            return f"our account is {self.account}"
        return "NODE_ID is not set" if self.last is None else f"this was {_named(self.last)}"


BY_KEY = NodeIdentity()
"""Nothing beside the key is known."""


@dataclass(frozen=True)
class AccessControl:
    """The decisions over one state of the registry, for the node with ``own_key``.

    ``confirmations`` is how many blocks a grant must have above its own before it counts; a
    revocation always counts at once. ``height`` is the number of the block that the state was read
    at.
    """

    registry: Registry
    addresses: AddressPlan
    own_key: PublicKey
    height: int = 0
    confirmations: int = 0
    quorum: Quorum | None = None
    """The quorum, if several endpoints must agree."""
    admission: Admission = EVERYONE
    identity: NodeIdentity = BY_KEY
    policy: PolicyConnections | None = None
    """The policies in force; None: no policy restricts anything."""
    early: Mapping[TokenId, str] = field(default_factory=dict)
    """The tokens that are out by pre-confirmed events, with these (`core.access.early`)."""

    def decide(self, subject: TokenId | str | PublicKey, now: float) -> Decision:
        """Decide about a token, a node id, a key, or a tunnel address; ``now`` in Unix seconds.

        If several tokens match, one that is on the network counts, else our own, else one that will
        be on the network, else the newest.
        """
        decisions = [self._decide(self.registry.nodes[token], now) for token in self._tokens(subject)]
        return max(decisions, key=_standing, default=_UNKNOWN)

    def granted(self, now: float) -> Iterator[Node]:
        """Return every node that is on the network at ``now``: a peer, or a gateway's client."""
        return (node for node in self.registry.nodes.values() if self._decide(node, now).granted)

    def claims(self, key: PublicKey, now: float) -> list[Decision]:
        """Return the grants of a peer with this key, the earliest claim first.

        Several tokens may have one key. An account that sees a key in a pending transaction can
        register it first, which must not keep the key's owner out. All of the tokens' addresses
        lead to that owner, because the copy comes without the private key.
        """
        found = [self._decide(self.registry.nodes[token], now) for token in self.registry.with_key(key)]
        return sorted((x for x in found if x.granted and not self._is_behind(x)), key=claimed)

    def own_clients(self, now: float) -> list[Decision]:
        """Return the grants of the plain clients that this node forwards for."""
        own = self.registry.with_key(self.own_key)
        return sorted((client for token in own for client in self._behind(token, now)), key=claimed)

    def _behind(self, token: TokenId, now: float) -> Iterator[Decision]:
        node_id = self.registry.nodes[token].node_id
        for client in self.registry.with_via(node_id) if isinstance(node_id, str) else ():
            decision = self._decide(self.registry.nodes[client], now)
            if decision.gateway is not None and decision.gateway.token_id == token:
                yield decision

    def _is_behind(self, decision: Decision) -> bool:
        """Return whether another node forwards for it, so that it is not a peer of ours."""
        return decision.gateway is not None and decision.gateway.public_key != self.own_key

    def _tokens(self, subject: TokenId | str | PublicKey) -> frozenset[TokenId]:
        match subject:
            case PublicKey():
                return self.registry.with_key(subject)
            case int():
                token: TokenId | None = subject
            case _:
                # Addresses first: the deployed contract allows a node id that equals an address.
                token = self.addresses.token_at(subject)
                if token is None:
                    return self.registry.with_node_id(subject)
        return frozenset({token}) if token in self.registry.nodes and token is not None else frozenset()

    def _decide(self, node: Node, now: float) -> Decision:
        found, gateway = _fault(node, now) or self._obstacle(node, now), None
        if found is None and node.via is not None:
            gateway = self._gateway_of(node, node.via, now)
            found = (Reason.NO_GATEWAY, gateway) if isinstance(gateway, str) else None
        if found is None and not self._is_connected(node, gateway):
            found = Reason.NO_GRANT, ""
        found = found or self._early(node)
        reason, detail = found or (Reason.ACTIVE, "")
        if reason not in {Reason.ACTIVE, Reason.OWN_KEY, Reason.NO_GRANT}:
            return Decision(granted=False, reason=reason, node=node, detail=detail)
        confirmed = node if self.quorum is None else self.quorum.granted(node)
        granted = found is None
        ends = confirmed.expires_at if granted else 0
        tags, routes = confirmed.tags, routes_of(confirmed)
        if not granted or not isinstance(gateway, Node):
            return Decision(granted, reason, node, detail, ends, tags, routes)
        detail = f"a client of {gateway.node_id}"
        return Decision(granted, reason, node, detail, ends, tags, routes, gateway)

    def _obstacle(self, node: Node, now: float) -> tuple[Reason, str] | None:
        """Return the reason that a node without a fault of its own is not a peer, or None."""
        assert isinstance(node.public_key, PublicKey)
        if node.public_key == self.own_key:
            ours = self.identity.matches(node)
            return (Reason.OWN_KEY if ours else Reason.COPIED_KEY), ""
        if not self.addresses.has_room_for(node.token_id):
            return Reason.NO_ADDRESS, ""
        # A log of the next block may be here before its head.
        above = max(self.height - node.key_since.block, 0)
        if above < self.confirmations:
            return Reason.UNCONFIRMED, f"{above} of {self.confirmations} blocks"
        if self.quorum is not None:
            if doubt := self.quorum.doubt(node):
                return Reason.NO_QUORUM, doubt
            if 0 < self.quorum.granted(node).expires_at < now:
                return Reason.EXPIRED, ""
        if refused := self.admission.refuses(node.public_key):
            return refused, ""
        return None

    def _early(self, node: Node) -> tuple[Reason, str] | None:
        """Return the early removal of a node, or None; this node does not remove itself."""
        if node.token_id not in self.early or node.public_key == self.own_key:
            return None
        return Reason.EARLY, self.early[node.token_id]

    def _is_connected(self, node: Node, gateway: Node | str | None) -> bool:
        """Return whether the policy connects a node with this one; our own clients stay peers."""
        if self.policy is None or (isinstance(gateway, Node) and gateway.public_key == self.own_key):
            return True
        return self.policy.connects(self.subject(node))

    def _gateway_of(self, node: Node, via: str, now: float) -> Node | str:
        """Return the gateway of a plain client, or the reason that there is none."""
        return "it names itself" if node.node_id == via else self.gateway(via, now)

    def gateway(self, node_id: str, now: float) -> Node | str:
        """Return the node that plain clients can use as their gateway, or the reason against it.

        If several tokens have the node id, it is the usable one with the earliest claim.
        """
        named = [self.registry.nodes[token] for token in sorted(self.registry.with_node_id(node_id))]
        if not named:
            return f"there is no node {node_id}"
        problems = [self._gateway_problem(each, now) for each in named]
        usable = [each for each, problem in zip(named, problems, strict=True) if problem is None]
        if not usable:
            return f"{node_id}: {problems[-1]}"
        found = min(usable, key=lambda each: (each.key_since, each.token_id))
        # An early removal gives no client to another gateway of the same name.
        early = self._early(found)
        return found if early is None else f"{node_id}: {early[0].value} ({early[1]})"

    def _gateway_problem(self, node: Node, now: float) -> str | None:
        fault = _fault(node, now) or self._obstacle(node, now)
        if fault is not None and fault[0] is not Reason.OWN_KEY:
            return f"{fault[0].value} ({fault[1]})" if fault[1] else fault[0].value
        if node.via is not None:
            return "it is a client of another gateway"
        confirmed = node if self.quorum is None else self.quorum.granted(node)
        return None if confirmed.tags & self.gateway_bit else f"it does not have the tag '{GATEWAY}'"

    @cached_property
    def gateway_bit(self) -> int:
        """The bit of the tag `GATEWAY`; 0 if no such tag is defined."""
        contract = self.registry.contract
        rules = Rules.of(contract) if self.quorum is None else self.quorum.contract.rules(contract)
        names = rules.tag_names
        return 1 << names.index(GATEWAY) if GATEWAY in names else 0

    def subject(self, node: Node) -> Subject:
        """Return what a policy selects a granted node by."""
        confirmed = node if self.quorum is None else self.quorum.granted(node)
        node_id = node.node_id if isinstance(node.node_id, str) else None
        return Subject(node_id, node.owner, confirmed.tags, routes_of(confirmed))


def own_problem(access: AccessControl, now: float) -> str | None:
    """Return the problem of this node's own membership with its remedy, or None.

    ``now`` is in Unix seconds.
    """
    decision = access.decide(access.own_key, now)
    if decision.reason is Reason.COPIED_KEY and decision.node is not None:
        return f"{access.identity}, but our key is registered for {_named(decision.node)}; {_ANOTHER_KEY}"
    if decision.reason is not Reason.OWN_KEY:
        return _own_absence(access, now)
    if decision.node is not None and decision.node.via is not None:
        return (
            f"{_named(decision.node)} is registered as a plain client (its endpoint is via:"
            f"{decision.node.via}), so the other nodes reach its gateway instead of this node; set its "
            "endpoint with 'dstack-vpn node set-endpoint'"
        )
    rivals = map(access.registry.nodes.__getitem__, access.registry.with_key(access.own_key))
    claims = [node for node in rivals if _fault(node, now) is None]
    if access.identity.is_key_alone and len(claims) > 1:
        named = " and ".join(_named(node) for node in sorted(claims, key=lambda node: node.token_id)[:3])
        return f"our key is registered for {named}; set NODE_ID, so that this node knows which one it is"
    return None


_ANOTHER_KEY: Final = (
    "correct NODE_ID, or, if another member has registered our key before us, make another key "
    "('dstack-vpn keygen', or a new STATE_DIR with WIREGUARD_PRIVATE_KEY=generate) and register that"
)


def _named(node: Node) -> str:
    return f"node {node.node_id} (token {node.token_id} of {node.owner})"


_BY_POLICY: Final = frozenset({Reason.NO_GRANT, Reason.UNENFORCED})
"""The reasons by which a policy refuses a node that the registry grants."""


def _own_absence(access: AccessControl, now: float) -> str:
    node_id = access.identity.node_id
    if node_id is None:
        return f"our public key {access.own_key} is not registered; register it, or set NODE_ID"
    decision = access.decide(node_id, now)
    if decision.granted or decision.reason in _BY_POLICY:
        return (
            f"node {node_id} is registered with another public key than ours ({access.own_key}); "
            "update it with 'dstack-vpn node update-key', or use the private key that belongs to it"
        )
    return f"node {node_id} is not on the network: {decision}"


def _fault(node: Node, now: float) -> tuple[Reason, str] | None:
    """Return the reason that refuses a node regardless of other nodes, or None."""
    if not node.active:
        return Reason.REVOKED, ""
    if isinstance(node.node_id, Malformed):
        return Reason.MALFORMED_NODE_ID, node.node_id.problem
    if isinstance(node.public_key, Malformed):
        return Reason.MALFORMED_KEY, node.public_key.problem
    if node.suspended_key is not None and node.public_key == node.suspended_key:
        return Reason.TRANSFERRED, ""
    if node.public_key is None:
        return Reason.NO_KEY, ""
    if 0 < node.expires_at < now:
        return Reason.EXPIRED, ""
    return None


_TO_COME: Final = frozenset(
    {
        Reason.COPIED_KEY,
        Reason.EARLY,
        Reason.UNCONFIRMED,
        Reason.UNSETTLED,
        Reason.ISOLATED,
        Reason.PINNED_OUT,
        Reason.UNENFORCED,
        Reason.NO_GATEWAY,
        Reason.NO_GRANT,
    }
)
"""The reasons that refuse a token without a fault of its own."""


def _standing(decision: Decision) -> tuple[bool, bool, bool, int]:
    """Return the sort key of matches: a grant, our own token, one to come, then the newest."""
    token = decision.node.token_id if decision.node else -1
    own = decision.reason is Reason.OWN_KEY
    return decision.granted, own, decision.reason in _TO_COME, token


def claimed(decision: Decision) -> tuple[Position, TokenId]:
    """Return the sort key of claims of one key."""
    assert decision.node is not None
    return decision.node.key_since, decision.node.token_id
