"""The registry from this node's view: the follower's state, its decisions, and the resulting peers.

The module is synchronous on purpose: an event is folded, decided and passed on as peer deltas
without interruption.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import structlog

from dstack_vpn.core.access.addressing import AddressPlan
from dstack_vpn.core.access.contract_quorum import Rules
from dstack_vpn.core.access.control import (
    EVERYONE,
    AccessControl,
    Admission,
    Decision,
    NodeIdentity,
    Reason,
    own_problem,
)
from dstack_vpn.core.access.decisions import DecisionRecord
from dstack_vpn.core.access.early import EarlySubscription
from dstack_vpn.core.access.expiry import ExpiryClock
from dstack_vpn.core.access.membership import (
    Delta,
    Lookup,
    Membership,
    PeerPolicy,
    dependents,
    keys_behind,
    keys_of,
)
from dstack_vpn.core.access.quorum import Quorum
from dstack_vpn.core.access.staleness import Staleness, StalePolicy
from dstack_vpn.core.chain.commands import Advanced
from dstack_vpn.core.chain.contract import CONTRACT
from dstack_vpn.core.chain.events import TokenState, token_of
from dstack_vpn.core.chain.follower import Follower
from dstack_vpn.core.chain.node import Node
from dstack_vpn.core.chain.registry import Registry
from dstack_vpn.core.model import BlockRef, Cidr, Endpoint, Malformed, Peer, PeerState, TokenId
from dstack_vpn.core.observe.events import (
    Decided,
    DecisionsChanged,
    FieldRefused,
    KeyChanged,
    PinChanged,
)
from dstack_vpn.core.observe.reports import MembersReport
from dstack_vpn.core.paths.peer_endpoint import PeerEndpoint
from dstack_vpn.core.policy.compiler import PolicyConnections, Subject
from dstack_vpn.core.policy.document import PolicyDocument
from dstack_vpn.core.wireguard.keys import PublicKey
from dstack_vpn.daemon.peers.early import EarlyRevocations
from dstack_vpn.daemon.peers.policies import Policies
from dstack_vpn.daemon.peers.routes import Routes
from dstack_vpn.ports import Checkpoint, Clock, EarlyFact, Publish

_log = structlog.get_logger(component="registry")

SINGLY: Final = 50
"""Changed decisions that are published one by one; more at once are published together."""


@dataclass(slots=True)
class Members:
    """The chain's registry, and the decisions and peers that this node derives from it."""

    own_key: PublicKey
    identity: NodeIdentity
    """The identification of our own token in addition to our key."""
    addresses: AddressPlan
    policy: PeerPolicy
    confirmations: int
    clock: Clock
    paced: bool
    """Set if blocks come at a known pace; on other chains any client can set their time."""
    lookup: Lookup
    quorum: Quorum | None
    """The state that the RPC endpoints agree on; None if one endpoint is enough."""
    staleness: Staleness
    submit: Callable[[list[Delta], float], None]
    """Accepts the deltas of one event, and its arrival time (monotonic seconds)."""
    doubted: Callable[[], None]
    """Called when there may be tokens to query from other endpoints."""
    own_changed: Callable[[], None]
    """Called when our own token, and with it our address, has changed."""
    rekey: Callable[[AccessControl, float], PublicKey | None]
    """Returns another key of ours that the registry has; called while ours is not in force."""
    policies: Policies
    routes: Routes
    early: EarlyRevocations
    publish: Publish
    follower: Follower = field(default_factory=Follower)
    synced: float | None = field(default=None, init=False)
    """The time of the last confirmation by the chain (Unix seconds)."""
    stale: bool = field(default=False, init=False)
    """Set while the members come from the state directory, without confirmation by the chain."""
    isolated: bool = field(default=False, init=False)
    """Set while there are no peers because the registry is too old."""
    membership: Membership = field(init=False)
    decisions: DecisionRecord = field(default_factory=DecisionRecord, init=False)
    admission: Admission = field(default=EVERYONE, init=False)
    causes: dict[TokenId, str] = field(default_factory=dict, init=False)
    """The last event of each token since the start: block and log index."""
    _seen: Registry = field(default_factory=Registry, init=False)
    """The registry that the peers were last derived from."""
    _expiry: ExpiryClock = field(default_factory=ExpiryClock, init=False)
    _timed: BlockRef | None = field(default=None, init=False)
    """The last block whose time was adopted."""
    _own_token: TokenId | None = field(default=None, init=False)
    _own_problem: str | None = field(default=None, init=False)
    _too_old: str | None = field(default=None, init=False)
    """The reason that no member was restored from the state directory."""
    _age: float | None = field(default=None, init=False)
    """The registry's age at the last check (seconds)."""
    _last_own: Node | None = field(default=None, init=False)
    """Our token when it was last in force without a problem."""
    _gateway_bit: int = field(default=0, init=False)
    """The tag of gateways by which the clients were last decided about."""
    _policy: PolicyConnections | None = field(default=None, init=False)
    """The policies that the peers were last derived under."""

    def __post_init__(self) -> None:
        self.membership = Membership(self.policy, self.lookup)

    def now(self) -> float:
        """Return the Unix time for access expiry: the wall clock, corrected by block time."""
        return self._expiry.now(self.clock.now(), self.clock.monotonic())

    @property
    def access(self) -> AccessControl:
        """Access control over the present registry, and early removals."""
        return replace(self.lasting_access, early=self.early.reasons)

    @property
    def lasting_access(self) -> AccessControl:
        """The same without early removals.

        They move no network or exit to another node, and change no policy.
        """
        return self.access_over(self.follower.registry)

    def access_over(self, registry: Registry) -> AccessControl:
        """Return access control over another registry, from this node's view."""
        tip = self.follower.tip
        return AccessControl(
            registry,
            self.addresses,
            self.own_key,
            tip.number if tip else 0,
            self.confirmations,
            self.quorum,
            self.admission,
            replace(self.identity, last=self._last_own),
            self.policies.compiled,
        )

    @property
    def rules(self) -> Rules:
        """The tag names and the policies that count now."""
        contract = self.follower.registry.contract
        return Rules.of(contract) if self.quorum is None else self.quorum.contract.rules(contract)

    @property
    def known(self) -> bool:
        """True if the members are known, from the chain or from the store."""
        return self.synced is not None or self.stale

    def report(self) -> MembersReport:
        """Report for health and metrics."""
        return MembersReport(
            synced=self.synced,
            stale=self.stale,
            age=self._age,
            max_staleness=self.staleness.limit,
            stale_policy=self.staleness.policy,
            isolated=self.isolated,
            too_old=self._too_old,
            pinned=self.membership.pinned is not None,
            own_problem=self._own_problem,
            refused_clients=tuple(self._refused_clients()),
            refused_routes=() if self.policies.networks is None else self.policies.networks.refused,
        )

    @property
    def own_node(self) -> Node | None:
        """Our own token, while it is in force."""
        decision = self.access.decide(self.own_key, self.now())
        return decision.node if decision.reason is Reason.OWN_KEY else None

    def _refused_clients(self) -> Iterator[str]:
        """Yield the clients that name this node as their gateway without success, with the reasons.

        The decisions are those recorded last: a health check does not decide about every client.
        """
        own, registry = self.own_node, self.follower.registry
        if own is not None and isinstance(own.node_id, str):
            named = sorted(registry.with_via(own.node_id))
            for token, detail in self.decisions.refused(named, Reason.NO_GATEWAY):
                yield f"{registry.nodes[token].node_id}: {detail}"

    # -- inputs ------------------------------------------------------------------------------------

    def restore(self, checkpoint: Checkpoint) -> None:
        """Begin with the stored state: members that were final then, except those revoked since."""
        base = Registry.of(checkpoint.nodes, checkpoint.contract)
        self.follower.restore(base, checkpoint.finalized, checkpoint.events, checkpoint.tip)
        wall, monotonic = self.clock.now(), self.clock.monotonic()
        if checkpoint.synced is not None:
            self._expiry.seen(checkpoint.synced, monotonic)
        self._take_time()
        now = self.now()
        if self.quorum is not None:
            confirmed = [node for node in checkpoint.nodes if node.token_id in checkpoint.confirmed]
            self.quorum.remember(confirmed, checkpoint.finalized.number)
            if CONTRACT in checkpoint.confirmed:
                self.quorum.contract.remember(checkpoint.contract, checkpoint.finalized.number)
        if checkpoint.policy is not None:
            self.policies.selection.restore(checkpoint.policy)
        self._too_old = self.staleness.restored(checkpoint.synced, wall, monotonic)
        self.stale = self._too_old is None or self.staleness.policy is StalePolicy.ISOLATE
        if self.stale:
            self._follow_policies(monotonic)
        final = Membership(self.policy, self.lookup)
        final.rebuild(self.access_over(base), now)
        self.decisions.begin(self.access, now)
        self._admit_only(frozenset(final.keys()), Reason.UNSETTLED)
        if self._too_old is not None:
            # No members from the disk. A node that isolates does not keep those of an adopted
            # interface either.
            _log.error("members.too_old", problem=self._too_old)
            self._admit_only(frozenset(), Reason.ISOLATED)
            self.isolated = self.stale
        self.rebuild(self.clock.monotonic())

    def keep(self, peers: Mapping[PublicKey, PeerState]) -> None:
        """Admit the members behind an adopted interface that the restored registry grants.

        An earlier process has set them. From the store alone, only members that were final come in.
        """
        only, keys = self.admission.only, keys_behind(peers, self.follower.registry, self.addresses)
        if self.stale and not self.isolated and only is not None and not only.issuperset(keys):
            self._admit_only(only.union(keys), Reason.UNSETTLED)
            self.rebuild(self.clock.monotonic())

    def grow_old(self) -> None:
        """Apply the stale policy if the registry is too old without a confirmation by the chain."""
        now = self.clock.monotonic()
        self._age = self.staleness.age(now)
        if self.staleness.isolates(now) and not self.isolated:
            _log.error("members.isolated", age=round(self._age or 0.0), members=len(self.membership.peers))
            self.isolated = True
            self._admit_only(frozenset(), Reason.ISOLATED)
            self.rebuild(now)

    def policy_enforced(self) -> None:
        """Admit the peers of the policy: the packet filter enforces its rules.

        Another policy changes the decision about a token only if the old or the new one, and not
        both, connects it with this node.
        """
        if self.admission.unenforced:
            self.admission = replace(self.admission, unenforced=False)
            self.rebuild(self.clock.monotonic())
        elif self._policy is not self.policies.compiled:
            before, self._policy = self._policy, self.policies.compiled
            if self._policy is not None and self._policy.connects_as(before):
                return
            access = self.access
            nodes = access.registry.nodes
            subjects = [access.subject(node) for node in nodes.values()]
            connected = zip(
                nodes, _connected(before, subjects), _connected(self._policy, subjects), strict=True
            )
            changed = [token for token, old, new in connected if old != new]
            self._reconsider(changed, self.clock.monotonic())

    def policy_unenforced(self) -> None:
        """Admit no peer: the packet filter can't enforce the policy."""
        if not self.admission.unenforced:
            self.admission = replace(self.admission, unenforced=True)
            self.rebuild(self.clock.monotonic())

    def use_policy_file(self, document: PolicyDocument) -> None:
        """Use another policy of POLICY_FILE."""
        self.policies.use_file(document)
        self._follow_policies(self.clock.monotonic())

    def confirmed(self) -> None:
        """Record a confirmation by the chain: from now on it alone decides about members."""
        self._take_time()
        first, self.synced = self.synced is None, self.clock.now()
        self.staleness.confirmed(self.clock.monotonic())
        self._age = 0.0
        if self.admission.only is not None or self.stale:
            if self.isolated:
                _log.warning("members.rejoined")
            self._admit_only(None, Reason.UNSETTLED)
            self.stale = self.isolated = False
            self._too_old = None
            self.rebuild(self.clock.monotonic())
        if first:
            # An adopted interface may have peers that are not granted any more.
            self.submit([], self.clock.monotonic())
            self.own_changed()
            self.judge_own()
            self.follow_routes()

    def hinted(self, fact: EarlyFact) -> None:
        """Remove the peers of tokens whose keys a pre-confirmed event ends."""
        if isinstance(fact, EarlySubscription):
            self.early.subscribed(fact)
        elif tokens := self.early.announced(fact, self.follower):
            for token in tokens:
                self.causes.pop(token, None)  # the cause is not an event of the chain yet
            self._reconsider(tokens, self.clock.monotonic())

    def advanced(self, advanced: Advanced, seen: float) -> None:
        """Decide about the tokens that a step of the follower concerns, and submit the deltas."""
        self._take_time()
        before, after = self._seen, advanced.registry
        self._seen = after
        for logged in (*advanced.dropped, *advanced.added):
            token = None if isinstance(logged.event, TokenState) else token_of(logged.event)
            if token is not None:
                self.causes[token] = f"{logged.block_number}-{logged.log_index}"
        self._take_key()
        self._follow(advanced.tokens)
        self._follow_policies(seen)
        self._report(before, after, advanced.tokens)
        self._reconsider(advanced.tokens | self.early.advanced(advanced), seen, before, after)
        if advanced.tokens:
            self.judge_own()

    def quorum_changed(self, tokens: Collection[TokenId]) -> None:
        """Decide again about these tokens after new replies of other endpoints."""
        self._follow_policies(self.clock.monotonic())
        self._reconsider(tokens, self.clock.monotonic())

    def rebuild(self, seen: float) -> None:
        """Decide about all tokens again."""
        self._report(self._seen, self.follower.registry, self.follower.registry.nodes)
        gone = self._seen.nodes.keys() - self.follower.registry.nodes.keys()
        self._seen = self.follower.registry
        self._take_key()
        tokens = [*self._seen.nodes, *gone]
        self._follow(tokens)
        self._follow_policies(seen)
        self._policy = self.policies.compiled
        access, now = self.access, self.now()
        self._gateway_bit = access.gateway_bit
        self._move_networks(tokens, now)
        deltas = self.membership.rebuild(access, now)
        # The tags of a peer may have changed without a delta: the chain was read as a whole.
        self._set_rules(deltas, self._seen.nodes, seen)
        self._submit(deltas, seen)
        self._record(self.decisions.update(access, {*tokens, *self.decisions.due(access, now)}, now))
        self.judge_own()

    def expire(self) -> None:
        """Decide again about the tokens whose access, or whose early removal, has expired."""
        self._reconsider(self.early.expire(self.follower), self.clock.monotonic())
        self.judge_own()

    def reached_by(self, endpoints: Collection[Endpoint]) -> set[Endpoint]:
        """Return those of the endpoints that some peer has."""
        nodes = self.follower.registry.nodes
        found = (self.policy.endpoint_of(nodes[t]) for _, t in self.membership.pairs() if t in nodes)
        names = {
            peer_endpoint.udp
            for peer_endpoint in found
            if peer_endpoint is not None and peer_endpoint.udp is not None
        }
        return names.intersection(endpoints)

    def resolved(self, endpoints: Iterable[Endpoint]) -> None:
        """Update the peers whose host names resolve to other addresses now."""
        changed = frozenset(endpoints)
        if not changed:
            return
        nodes = self.follower.registry.nodes
        self.path_changed(
            key
            for key, token in self.membership.pairs()
            if (node := nodes.get(token)) is not None
            and (peer_endpoint := self.policy.endpoint_of(node)) is not None
            and peer_endpoint.udp in changed
        )

    def path_changed(self, keys: Iterable[PublicKey]) -> None:
        """Update these peers: their address or path has changed."""
        deltas = self.membership.update(self.access, list(keys), (), self.now())
        seen = self.clock.monotonic()
        self._set_rules(deltas, (), seen)
        self._submit(deltas, seen)

    def move_networks(self, moves: Mapping[Cidr, TokenId | None]) -> None:
        """Let each of these networks lead to a token's peer; None: to no peer any more.

        A network moves to another peer in one step, which does not disturb other packets of both
        peers. See `Membership.move_networks`.
        """
        access, tokens = self.access, self.membership.move_networks(moves)
        deltas = self.membership.update(access, keys_of(tokens, access.registry), (), self.now())
        self._submit(deltas, self.clock.monotonic())

    def follow_routes(self) -> None:
        """Decide again about the networks behind nodes: the host or a gateway has changed."""
        self._reconsider((), self.clock.monotonic())

    def silent(self, keys: Iterable[PublicKey]) -> None:
        """Use another endpoint for those of these peers that several tokens name."""
        if turned := self.membership.turn(keys):
            self.path_changed(turned)

    def named(self, key: PublicKey) -> tuple[TokenId | None, str | None]:
        """Return a peer's token and node id, or None for one that is unknown."""
        token = self.membership.tokens.get(key)
        node = None if token is None else self.follower.registry.get(token)
        return token, None if node is None or isinstance(node.node_id, Malformed) else node.node_id

    def registered(self, key: PublicKey) -> Node | None:
        """Return the node that a peer stands for."""
        token = self.membership.tokens.get(key)
        return None if token is None else self.follower.registry.get(token)

    def node_at(self, address: str) -> str | None:
        """Return the node id of the token with a tunnel address; None if it has none."""
        token = self.addresses.token_at(address)
        node = None if token is None else self.follower.registry.get(token)
        return None if node is None or isinstance(node.node_id, Malformed) else node.node_id

    def pin(self, peers: dict[PublicKey, Peer] | None) -> None:
        """Restrict the peers to the operator's pinned set; None removes the pin."""
        self.publish(PinChanged(None if peers is None else len(peers)))
        self.membership.pin(peers)
        registry = self.follower.registry
        pinned = None if peers is None else keys_behind(peers, registry, self.addresses)
        self.admission = replace(self.admission, pinned=pinned)
        self.rebuild(self.clock.monotonic())

    def judge_own(self) -> None:
        """Check whether this node is a member itself, and log the problem if not."""
        own, problem = self.own_node, own_problem(self.access, self.now())
        if not self.known:
            problem = None  # no conclusion before the registry was read
        elif own is not None and problem is None:
            self._last_own = own
        token = own.token_id if own is not None else None
        if token != self._own_token:
            self._own_token = token
            self.own_changed()
        if problem != self._own_problem:
            self._own_problem = problem
            if problem is None:
                _log.info("membership.ok", node=self.identity.node_id)
            else:
                _log.warning("membership.problem", problem=problem)

    def _take_key(self) -> None:
        """Adopt another key of ours if the registry has that one for us by now."""
        now = self.now()
        if self.own_node is None and (key := self.rekey(self.access, now)) is not None:
            self.own_key = key
            self.publish(KeyChanged(key))

    # -- helpers -----------------------------------------------------------------------------------

    def _take_time(self) -> None:
        """Adopt our newest block's time, except on a development chain: any client can set it."""
        tip = self.follower.tip
        if self.paced and tip is not None and tip.timestamp and tip != self._timed:
            self._timed = tip
            self._expiry.adopted(float(tip.timestamp), self.clock.monotonic())

    def _follow_policies(self, seen: float) -> None:
        """Take another policy, or another state of our own token, into account.

        The packet filter comes first. `policy_enforced` then decides again about peers.
        """
        if self.follower.tip is None:
            return
        present = self._present() if self.policies.known else ()
        self.policies.follow(self.lasting_access, self.rules, self.own_node, present, seen)

    def _present(self) -> Iterator[tuple[tuple[str, ...], Node]]:
        """Yield the tokens that peers stand for, each with its addresses."""
        nodes = self.follower.registry.nodes
        for key, token in self.membership.pairs():
            if token in nodes:
                yield self._addresses(key, token), nodes[token]

    def _addresses(self, key: PublicKey, token: TokenId) -> tuple[str, ...]:
        """Return the addresses of a peer's token. Those of the peer are text already."""
        if key in self.membership.others or self.membership.networks_of(token):
            return self.addresses.texts_of(token)
        return tuple(cidr.partition("/")[0] for cidr in self.membership.peers[key].allowed_ips)

    def _set_rules(self, deltas: Iterable[Delta], tokens: Iterable[TokenId], seen: float) -> None:
        """Update the rules of the peers that have changed, and of the peers of these tokens."""
        access, found = self.access, set(tokens)
        for delta in deltas:
            if not self.policies.is_idle:
                self.policies.drop(delta.lost, seen)
            if delta.old is None:
                found.update(self.membership.tokens_of(delta.public_key))
            else:  # the other clients of a gateway keep their rules
                found.update(self.addresses.tokens_at(delta.gained))
        for token in found:
            node, key = access.registry.get(token), self.membership.key_of.get(token)
            if node is None or key is None or (node.via is None and self.policies.is_idle):
                continue
            forwarded = node.via is not None and node.public_key == key
            self.policies.put(self._addresses(key, token), access.subject(node), seen, forwarded=forwarded)

    def _move_networks(self, tokens: Iterable[TokenId], now: float) -> set[TokenId]:
        """Decide again about networks after changes of these tokens.

        Returns the tokens whose networks have changed. The next decisions about them take effect.
        """
        access, reaches = self.lasting_access, self.policies.reaches
        moves = self.routes.follow(access, tokens, reaches, now, known=self.known)
        return self.membership.move_networks(moves)

    def _submit(self, deltas: list[Delta], seen: float) -> None:
        for delta in deltas:
            if delta.new is not None and delta.new.endpoint is not None:
                self.routes.note_endpoint(delta.new.endpoint.host)
        if deltas:
            self.submit(deltas, seen)

    def _report(self, before: Registry, after: Registry, tokens: Iterable[TokenId]) -> None:
        """Report each problem of a token's fields once, when it appears."""
        for token in tokens:
            old, new = before.get(token), after.get(token)
            if new is None or new is old:
                continue
            if old is None and self.addresses.ipv4_of(token) is None:
                _log.info("node.ipv6_only", token=token, reason="its id is beyond VPN_CIDR")
            for name in ("node_id", "public_key", "endpoint", "uri_endpoint"):
                value = getattr(new, name)
                problem = self._problem(value)
                if problem is not None and (old is None or getattr(old, name) != value):
                    self.publish(FieldRefused(token, name, problem))

    def _problem(self, value: object) -> str | None:
        """Return the reason that a token's field is not used, or None."""
        if isinstance(value, Malformed):
            return value.problem
        return value.refusal(self.policy.destinations) if isinstance(value, PeerEndpoint) else None

    def _admit_only(self, keys: frozenset[PublicKey] | None, otherwise: Reason) -> None:
        self.admission = replace(self.admission, only=keys, otherwise=otherwise)

    def _reconsider(self, tokens: Iterable[TokenId], seen: float, *registries: Registry) -> None:
        """Decide again about these tokens and about those that height or time may have changed.

        ``registries`` are the states before and after an event; the keys in any of them count.
        """
        access, now = self.access, self.now()
        due = {*tokens, *self.decisions.due(access, now)}
        if access.gateway_bit != self._gateway_bit:
            self._gateway_bit = access.gateway_bit
            due.update(*access.registry.by_via.values())
        due |= dependents(due, *registries, access.registry)
        moved = self._move_networks(due, now)
        if not due and not moved:
            return
        keys = keys_of(due | moved, *registries, access.registry)
        deltas = self.membership.update(access, keys, due, now)
        self._set_rules(deltas, due, seen)
        self._submit(deltas, seen)
        self._record(self.decisions.update(access, due, now))

    def _record(self, changed: list[tuple[TokenId, Decision]]) -> None:
        """Publish each changed decision; the audit log is a listener."""
        decided = tuple(self._decided(token, decision) for token, decision in changed)
        if len(decided) <= SINGLY:
            for each in decided:
                self.publish(each)
        else:
            granted = sum(each.granted for each in decided)
            self.publish(DecisionsChanged(granted, len(decided) - granted, decided))

    def _decided(self, token: TokenId, decision: Decision) -> Decided:
        name = decision.node.node_id if decision.node is not None else None
        shown = None if isinstance(name, Malformed) else name
        return Decided(token, shown, decision.granted, str(decision), self.causes.get(token))

    def _follow(self, tokens: Collection[TokenId]) -> None:
        """Pass the followed endpoint's state of these tokens to the quorum, if there is one."""
        if self.quorum is not None:
            self.quorum.update(tokens, self.follower.registry)
            self.doubted()


def _connected(policy: PolicyConnections | None, subjects: Sequence[Subject]) -> list[bool]:
    """Return for each member whether some grant connects it with this node, or with a client."""
    return [True] * len(subjects) if policy is None else policy.connected(subjects)
