"""A quorum of endpoints: with k of them needed, fewer than k cannot grant access.

The node follows one endpoint and takes heads and logs from it. The agreement of k endpoints on a
block's hash is not sufficient: an endpoint can send forged logs under an honest hash. Every
endpoint, including the followed one, is therefore queried for a token's state *after that block*. A
grant counts once k endpoints report the state that this node holds. A revocation needs no quorum: a
token that any endpoint reports as out is out until the dispute is settled.

Each reply is judged on arrival. No reply is waited for, and the followed endpoint's is one among
others.

    reply                                               effect
    the followed endpoint reports a token in            pending: all endpoints are queried
    k confirm what we hold, at one block, and no k      confirmed: access control may grant it
    contradict it
    the followed endpoint reports it out, or with       out at once; the confirmed state is dropped
    another key
    another reports it out, or with another key         disputed: out at once, until that endpoint
                                                        reports otherwise at a later block, or is
                                                        quarantined
    another reports an earlier expiry, fewer tags       the earlier expiry counts, and only the tags
    or fewer routes                                     and routes that both report
    k agree at one block, and fewer contradict them     the fewer are quarantined and their disputes
                                                        dropped; the followed one may be among them
    neither side has k, or both have                    contested: out; health names the endpoints

"At one block" means: the endpoint has our hash at our tip's height. An endpoint that lags cannot
contradict us about a block that it does not have; it is only not counted. A confirmed state holds
until the followed endpoint reports the token otherwise. A revoked token therefore needs a new
quorum before it is admitted.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from dstack_vpn.core.access.contract_quorum import ContractQuorum
from dstack_vpn.core.access.replies import Comparison, allows, covers, in_force, is_same_member, narrowed
from dstack_vpn.core.chain.contract import CONTRACT
from dstack_vpn.core.chain.node import Node
from dstack_vpn.core.chain.registry import Registry
from dstack_vpn.core.model import TokenId


@dataclass(frozen=True, slots=True)
class Contradiction:
    """A contradiction: an endpoint reports a token otherwise than this node holds it."""

    height: int
    """The height of the block after which the endpoint reports it."""
    out: bool
    """True if the endpoint reports the token as out, or as another member."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of judging a set of comparisons."""

    changed: frozenset[TokenId]
    """Tokens whose access decision may have changed."""
    contradicted: Mapping[str, str] = field(default_factory=dict)
    """Endpoints that k others contradict, with the reason; the followed one may be among them."""


@dataclass(slots=True)
class Quorum:
    """The tokens of the followed endpoint that enough endpoints have confirmed."""

    needed: int
    """Endpoints that must agree, the followed one included; 2 or more."""
    contested: dict[TokenId, frozenset[str]] = field(default_factory=dict)
    """Tokens that endpoints report differently without k on one side alone, and those endpoints."""
    contract: ContractQuorum = field(init=False)
    """The quorum for the tag names and the policy."""
    _confirmed: dict[TokenId, tuple[Node, int]] = field(default_factory=dict)
    """Each token's state when it was confirmed, and the height of the block of that state."""
    _pending: set[TokenId] = field(default_factory=set)
    _contradictions: dict[TokenId, dict[str, Contradiction]] = field(default_factory=dict)
    """The endpoints that contradict this node, by token."""

    def __post_init__(self) -> None:
        self.contract = ContractQuorum(self.needed)

    @property
    def pending(self) -> int:
        """Return the number of tokens that wait for confirmation, the contract itself included."""
        return len(self._pending) + self.contract.pending

    @property
    def disputed(self) -> list[TokenId]:
        """Return the tokens that are out because an endpoint that is not followed reports that."""
        return sorted(token for token in self._contradictions if self._against(token))

    def doubt(self, node: Node) -> str | None:
        """Return the reason that a token of the followed endpoint does not count yet, or None."""
        if against := self._against(node.token_id):
            return f"out according to {', '.join(sorted(against))}"
        held = self._held(node.token_id)
        if held is None or not is_same_member(held, node):
            return f"fewer than {self.needed} endpoints have shown it"
        return None

    def granted(self, node: Node) -> Node:
        """Return the node with its confirmed rights only.

        A later expiry, a tag or a route that one endpoint alone reports is ignored.
        """
        held = self._held(node.token_id)
        return replace(node, tags=0, routes=()) if held is None else narrowed(node, held)

    def confirms(self, node: Node) -> bool:
        """Return whether a token in this form can be restored without querying any endpoint."""
        return not self._against(node.token_id) and covers(self._held(node.token_id), node)

    def _held(self, token: TokenId) -> Node | None:
        return self._confirmed[token][0] if token in self._confirmed else None

    def _against(self, token: TokenId) -> list[str]:
        return [
            name for name, contradictions in self._contradictions.get(token, {}).items() if contradictions.out
        ]

    # -- events ------------------------------------------------------------------------------------

    def remember(self, nodes: Iterable[Node], height: int) -> None:
        """Restore the tokens that were confirmed before a restart, at that height or below."""
        self._confirmed |= {node.token_id: (node, height) for node in nodes}

    def update(self, tokens: Iterable[TokenId], registry: Registry) -> None:
        """Record the state of these tokens in the registry, as the followed endpoint reports."""
        self.contract.update(registry.contract)
        for token in tokens:
            node, held = registry.get(token), self._held(token)
            if node is None or not in_force(node):
                for forget in (self._confirmed, self._contradictions, self.contested):
                    forget.pop(token, None)
                self._pending.discard(token)
                continue
            if held is not None and not is_same_member(held, node):
                del self._confirmed[token]
                held = None
            elif held is not None and not allows(node, held):
                # One endpoint alone cannot give back rights that were taken.
                held = narrowed(node, held)
                self._confirmed[token] = held, self._confirmed[token][1]
            if covers(held, node):
                self._pending.discard(token)
            else:
                self._pending.add(token)

    def questions(self, height: int) -> list[TokenId]:
        """Return the tokens to query at that height: the unconfirmed and the contradicted ones."""
        due = {
            t
            for t, contradictions in self._contradictions.items()
            if max(x.height for x in contradictions.values()) <= height
        }
        return sorted(self._pending | due)

    def discard(self, endpoint: str) -> frozenset[TokenId]:
        """Drop the contradictions of a quarantined endpoint; return the tokens concerned."""
        concerned = {
            token
            for token, contradictions in self._contradictions.items()
            if contradictions.pop(endpoint, None)
        }
        for token in concerned:
            if not self._contradictions[token]:
                del self._contradictions[token]
        self.contract.discard(endpoint)
        for token in [t for t, who in self.contested.items() if endpoint in who]:
            del self.contested[token]
        return frozenset(concerned)

    def judge(
        self,
        asked: Registry,
        now: Registry,
        comparisons: Sequence[Comparison],
        unsettled: Collection[TokenId] = (),
    ) -> Outcome:
        """Judge comparisons of endpoints' replies with the registry at that block (``asked``).

        ``now`` is the current registry. No endpoint is judged by a token that has changed since, or
        that is ``unsettled`` (named by logs of blocks above ours). A comparison that removes it
        still counts.
        """
        changed: set[TokenId] = set()
        contradicted: dict[str, str] = {}
        tokens = self._in_question(comparisons)
        current = {token for token in tokens if now.get(token) == asked.get(token)}
        for token in current.difference(unsettled):
            changed |= self._settle(token, asked.get(token), comparisons, contradicted)
        settles = asked.contract == now.contract and CONTRACT not in unsettled
        contradicted |= self.contract.judge(asked.contract, comparisons, settles=settles)
        honest = [comparison for comparison in comparisons if comparison.endpoint not in contradicted]
        for token in tokens:
            ours, held = asked.get(token), now.get(token)
            if token in current or (ours is not None and held is not None and is_same_member(ours, held)):
                changed |= self._update_contradictions(token, held, honest)
        for name in contradicted:
            changed |= self.discard(name)
        return Outcome(frozenset(changed), contradicted)

    # -- helpers -----------------------------------------------------------------------------------

    def _in_question(self, comparisons: Sequence[Comparison]) -> set[TokenId]:
        """Return the tokens that these comparisons may change: of thousands, usually none."""
        found = self._pending | self._contradictions.keys() | self.contested.keys()
        found = {token for token in found if any(token in w.same or token in w.differs for w in comparisons)}
        return found.union(*(comparison.differs for comparison in comparisons))

    def _settle(
        self,
        token: TokenId,
        ours: Node | None,
        comparisons: Sequence[Comparison],
        contradicted: dict[str, str],
    ) -> set[TokenId]:
        """Count the sides about a token and accuse the minority; returns it if now confirmed."""
        agree = [
            comparison for comparison in comparisons if comparison.on_our_chain and token in comparison.same
        ]
        here = [comparison.endpoint for comparison in agree if comparison.definitive]
        groups = _groups(token, comparisons)
        biggest = max(map(len, groups), default=0)
        self.contested.pop(token, None)
        if len(agree) >= self.needed > biggest:
            if len(here) >= self.needed:
                _note_contradicted(contradicted, (name for group in groups for name in group), token)
            return self._confirm(token, ours, min(comparison.height for comparison in agree))
        if biggest >= self.needed > len(agree):
            _note_contradicted(contradicted, here, token)
        elif groups and (agree or len(groups) > 1):
            self.contested[token] = frozenset({comparison.endpoint for comparison in agree}.union(*groups))
        return set()

    def _confirm(self, token: TokenId, ours: Node | None, height: int) -> set[TokenId]:
        if ours is None or not in_force(ours):
            return set()
        self._pending.discard(token)
        if self._held(token) == ours:
            return set()
        self._confirmed[token] = ours, height
        return {token}

    def _update_contradictions(
        self, token: TokenId, ours: Node | None, honest: Sequence[Comparison]
    ) -> set[TokenId]:
        """Update the endpoints that contradict this node about the token."""
        before = set(self._against(token))
        contradictions, narrower = dict(self._contradictions.get(token, {})), False
        for comparison in honest:
            name = comparison.endpoint
            if token in comparison.same:
                if name in contradictions and contradictions[name].height <= comparison.height:
                    del contradictions[name]
            elif token in comparison.differs:
                theirs = comparison.differs[token]
                found = self._contradiction_of(token, ours, theirs, comparison)
                if found is not None:
                    contradictions[name] = found
                    narrower |= not found.out and self._narrow(token, theirs)
        if contradictions:
            self._contradictions[token] = contradictions
        else:
            self._contradictions.pop(token, None)
        return {token} if narrower or set(self._against(token)) != before else set()

    def _contradiction_of(
        self, token: TokenId, ours: Node | None, theirs: Node | None, comparison: Comparison
    ) -> Contradiction | None:
        """Return the contradiction, or None if it only stems from an old or a foreign block."""
        out = in_force(ours) and (
            not in_force(theirs) or theirs is None or ours is None or not is_same_member(theirs, ours)
        )
        if not comparison.on_our_chain:
            held, since = self._confirmed.get(token, (None, 0))
            takes = out or (held is not None and theirs is not None and not allows(theirs, held))
            if held is None or not takes or comparison.height < since:
                return None
        return Contradiction(comparison.height, out)

    def _narrow(self, token: TokenId, theirs: Node | None) -> bool:
        """Apply an earlier expiry, fewer tags or fewer routes that an endpoint reports."""
        held = self._held(token)
        if held is None or theirs is None or not in_force(theirs) or allows(theirs, held):
            return False
        self._confirmed[token] = narrowed(held, theirs), self._confirmed[token][1]
        self._pending.add(token)
        return True


def _groups(token: TokenId, comparisons: Sequence[Comparison]) -> list[list[str]]:
    """Group the endpoints that contradict this node at the same block by the state they report."""
    groups: dict[Node | None, list[str]] = {}
    for comparison in comparisons:
        if comparison.definitive and token in comparison.differs:
            groups.setdefault(comparison.differs[token], []).append(comparison.endpoint)
    return list(groups.values())


def _note_contradicted(contradicted: dict[str, str], names: Iterable[str], token: TokenId) -> None:
    for name in names:
        contradicted.setdefault(name, f"the others contradict its state of token {token}")
