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
    another reports an earlier expiry                   the earlier expiry counts
    k agree at one block, and fewer contradict them     the fewer are quarantined and their disputes
                                                        dropped; the followed one may be among them
    neither side has k, or both have                    contested: out; health names the endpoints

"At one block" means: the endpoint has our hash at our tip's height. An endpoint that lags cannot
contradict us about a block that it does not have; it is only not counted. A confirmed state holds
until the followed endpoint reports the token otherwise. A revoked token therefore needs a new
quorum before it is admitted.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from dstack_vpn.core.access.replies import Comparison, covers, in_force, is_same_member, lasts
from dstack_vpn.core.chain.node import Node
from dstack_vpn.core.chain.registry import Registry
from dstack_vpn.core.model import TokenId


@dataclass(frozen=True, slots=True)
class Odds:
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
    _vouched: dict[TokenId, tuple[Node, int]] = field(default_factory=dict)
    """Each token's state when it was confirmed, and the height of the block of that state."""
    _pending: set[TokenId] = field(default_factory=set)
    _odds: dict[TokenId, dict[str, Odds]] = field(default_factory=dict)
    """The endpoints that contradict this node, by token."""

    @property
    def pending(self) -> int:
        """Return the number of tokens that wait for confirmation."""
        return len(self._pending)

    @property
    def disputed(self) -> list[TokenId]:
        """Return the tokens that are out because an endpoint that is not followed reports that."""
        return sorted(token for token in self._odds if self._against(token))

    def doubt(self, node: Node) -> str | None:
        """Return the reason that a token of the followed endpoint does not count yet, or None."""
        if against := self._against(node.token_id):
            return f"out according to {', '.join(sorted(against))}"
        held = self._held(node.token_id)
        if held is None or not is_same_member(held, node):
            return f"fewer than {self.needed} endpoints have shown it"
        return None

    def ends(self, node: Node) -> int:
        """Return the confirmed expiry: an extension that one endpoint alone reports is ignored."""
        ends = [x.expires_at for x in (node, self._held(node.token_id)) if x is not None and x.expires_at]
        return min(ends, default=0)

    def confirms(self, node: Node) -> bool:
        """Return whether a token in this form can be restored without querying any endpoint."""
        return not self._against(node.token_id) and covers(self._held(node.token_id), node)

    def _held(self, token: TokenId) -> Node | None:
        return self._vouched[token][0] if token in self._vouched else None

    def _against(self, token: TokenId) -> list[str]:
        return [name for name, odds in self._odds.get(token, {}).items() if odds.out]

    # -- events ---------------------------------------------------------------------------------------

    def remember(self, nodes: Iterable[Node], height: int) -> None:
        """Restore the tokens that were confirmed before a restart, at that height or below."""
        self._vouched |= {node.token_id: (node, height) for node in nodes}

    def followed(self, tokens: Iterable[TokenId], registry: Registry) -> None:
        """Record the state of these tokens in the registry, as the followed endpoint reports."""
        for token in tokens:
            node, held = registry.get(token), self._held(token)
            if node is None or not in_force(node):
                for forget in (self._vouched, self._odds, self.contested):
                    forget.pop(token, None)
                self._pending.discard(token)
                continue
            if held is not None and not is_same_member(held, node):
                del self._vouched[token]
                held = None
            elif held is not None and not lasts(node, held):
                # One endpoint alone cannot extend an expiry that was shortened.
                held, self._vouched[token] = node, (node, self._vouched[token][1])
            if covers(held, node):
                self._pending.discard(token)
            else:
                self._pending.add(token)

    def questions(self, height: int) -> list[TokenId]:
        """Return the tokens to query at that height: the unconfirmed and the contradicted ones."""
        due = {t for t, odds in self._odds.items() if max(x.height for x in odds.values()) <= height}
        return sorted(self._pending | due)

    def discard(self, endpoint: str) -> frozenset[TokenId]:
        """Drop the contradictions of a quarantined endpoint; return the tokens concerned."""
        concerned = {token for token, odds in self._odds.items() if odds.pop(endpoint, None)}
        for token in concerned:
            if not self._odds[token]:
                del self._odds[token]
        for token in [t for t, who in self.contested.items() if endpoint in who]:
            del self.contested[token]
        return frozenset(concerned)

    def heard(
        self, asked: Registry, now: Registry, words: Sequence[Comparison], unsettled: Collection[TokenId] = ()
    ) -> Outcome:
        """Judge comparisons of endpoints' replies with the registry at that block (``asked``).

        ``now`` is the current registry. No endpoint is judged by a token that has changed since, or
        that is ``unsettled`` (named by logs of blocks above ours). A comparison that removes it
        still counts.
        """
        changed: set[TokenId] = set()
        contradicted: dict[str, str] = {}
        tokens = self._in_question(words)
        current = {token for token in tokens if now.get(token) == asked.get(token)}
        for token in current.difference(unsettled):
            changed |= self._settle(token, asked.get(token), words, contradicted)
        honest = [word for word in words if word.endpoint not in contradicted]
        for token in tokens:
            ours, held = asked.get(token), now.get(token)
            if token in current or (ours is not None and held is not None and is_same_member(ours, held)):
                changed |= self._weigh(token, held, honest)
        for name in contradicted:
            changed |= self.discard(name)
        return Outcome(frozenset(changed), contradicted)

    # -- helpers --------------------------------------------------------------------------------------

    def _in_question(self, words: Sequence[Comparison]) -> set[TokenId]:
        """Return the tokens that these comparisons may change: of thousands, usually none."""
        found = self._pending | self._odds.keys() | self.contested.keys()
        found = {token for token in found if any(token in w.same or token in w.differs for w in words)}
        return found.union(*(word.differs for word in words))

    def _settle(
        self, token: TokenId, ours: Node | None, words: Sequence[Comparison], contradicted: dict[str, str]
    ) -> set[TokenId]:
        """Count the sides about a token and accuse the minority; returns it if now confirmed."""
        agree = [word for word in words if word.on_our_chain and token in word.same]
        here = [word.endpoint for word in agree if word.definitive]
        camps = _camps(token, words)
        biggest = max(map(len, camps), default=0)
        self.contested.pop(token, None)
        if len(agree) >= self.needed > biggest:
            if len(here) >= self.needed:
                _accuse(contradicted, (name for camp in camps for name in camp), token)
            return self._vouch(token, ours, min(word.height for word in agree))
        if biggest >= self.needed > len(agree):
            _accuse(contradicted, here, token)
        elif camps and (agree or len(camps) > 1):
            self.contested[token] = frozenset({word.endpoint for word in agree}.union(*camps))
        return set()

    def _vouch(self, token: TokenId, ours: Node | None, height: int) -> set[TokenId]:
        if ours is None or not in_force(ours):
            return set()
        self._pending.discard(token)
        if self._held(token) == ours:
            return set()
        self._vouched[token] = ours, height
        return {token}

    def _weigh(self, token: TokenId, ours: Node | None, honest: Sequence[Comparison]) -> set[TokenId]:
        """Update the endpoints that contradict this node about the token."""
        before = set(self._against(token))
        odds, shortened = dict(self._odds.get(token, {})), False
        for word in honest:
            name = word.endpoint
            if token in word.same:
                if name in odds and odds[name].height <= word.height:
                    del odds[name]
            elif token in word.differs:
                theirs = word.differs[token]
                found = self._at_odds(token, ours, theirs, word)
                if found is not None:
                    odds[name] = found
                    shortened |= not found.out and self._shorten(token, theirs, word.height)
        if odds:
            self._odds[token] = odds
        else:
            self._odds.pop(token, None)
        return {token} if shortened or set(self._against(token)) != before else set()

    def _at_odds(
        self, token: TokenId, ours: Node | None, theirs: Node | None, word: Comparison
    ) -> Odds | None:
        """Return the contradiction, or None if it only stems from an old or a foreign block."""
        out = in_force(ours) and (
            not in_force(theirs) or theirs is None or ours is None or not is_same_member(theirs, ours)
        )
        if not word.on_our_chain:
            since = self._vouched[token][1] if token in self._vouched else None
            if not out or since is None or word.height < since:
                return None
        return Odds(word.height, out)

    def _shorten(self, token: TokenId, theirs: Node | None, height: int) -> bool:
        """Apply an earlier expiry that an endpoint reports; the token stays in until then."""
        held = self._held(token)
        if held is None or theirs is None or not in_force(theirs) or lasts(theirs, held):
            return False
        self._vouched[token] = theirs, height
        self._pending.add(token)
        return True


def _camps(token: TokenId, words: Sequence[Comparison]) -> list[list[str]]:
    """Group the endpoints that contradict this node at the same block by the state they report."""
    camps: dict[Node | None, list[str]] = {}
    for word in words:
        if word.definitive and token in word.differs:
            camps.setdefault(word.differs[token], []).append(word.endpoint)
    return list(camps.values())


def _accuse(contradicted: dict[str, str], names: Iterable[str], token: TokenId) -> None:
    for name in names:
        contradicted.setdefault(name, f"what it says of token {token} is not what the others say")
