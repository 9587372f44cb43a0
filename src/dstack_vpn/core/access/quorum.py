"""A quorum of endpoints: with k of them needed, fewer than k can give nobody access.

One endpoint is followed, and tells us of heads and logs. That k endpoints agree on a block's hash is not
enough to believe it: it can hand out forged logs under an honest hash. So every endpoint, the followed one
included, is asked for a token's state *after that very block*. A grant counts once k of them say what we
hold. A revocation needs no quorum: a token that any endpoint shows out is out, until that is settled.

Each answer is judged when it comes. No answer is waited for, and the followed endpoint's is one among others.

    an answer                                           its effect
    the followed endpoint shows a token in              pending: all are asked
    k show what we hold, at one block, and no k others  vouched: access control may grant it
    the followed endpoint shows it out, or another key  out at once; what was vouched is forgotten
    another shows it out, or with another key           disputed: out at once, until that endpoint shows
                                                        otherwise at a later block, or is found to lie
    another shows it ending sooner                      that end counts
    k agree at one block, and fewer say otherwise       the fewer lie: quarantine, their disputes are void;
                                                        the followed one may be among them
    neither side has k, or both have                    contested: out, and health names who is at odds

"At one block" means: the endpoint has our hash at our tip's height. An endpoint that stays behind can't lie
about a block that it does not show; it only does not count. A vouched state holds until the followed endpoint
shows the token otherwise, so a token that was revoked needs a quorum again before it comes back.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from dstack_vpn.core.access.replies import Comparison, covers, in_force, is_same_member, lasts
from dstack_vpn.core.chain.node import Node
from dstack_vpn.core.chain.registry import Registry
from dstack_vpn.core.model import TokenId


@dataclass(frozen=True, slots=True)
class Odds:
    """That an endpoint says anything else of a token than we hold."""

    height: int
    """Of the block after which it does."""
    out: bool
    """Whether it shows the token out, or as another member."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a round has come to."""

    changed: frozenset[TokenId]
    """Tokens about which a decision may be another now."""
    contradicted: Mapping[str, str] = field(default_factory=dict)
    """Endpoints that k others contradict, and in what; the followed one may be among them."""


@dataclass(slots=True)
class Quorum:
    """Which of the followed endpoint's tokens enough others have vouched for."""

    needed: int
    """Endpoints that must agree, the followed one included; 2 or more."""
    contested: dict[TokenId, frozenset[str]] = field(default_factory=dict)
    """Tokens that endpoints contradict each other about, with no k on one side alone, and who does."""
    _vouched: dict[TokenId, tuple[Node, int]] = field(default_factory=dict)
    """As they were when they were vouched for, and the height of the block at which they were."""
    _pending: set[TokenId] = field(default_factory=set)
    _odds: dict[TokenId, dict[str, Odds]] = field(default_factory=dict)
    """Who else is at odds with us about a token."""

    @property
    def pending(self) -> int:
        """How many tokens wait for others to show them."""
        return len(self._pending)

    @property
    def disputed(self) -> list[TokenId]:
        """Tokens that are out because another endpoint than the followed one shows them out."""
        return sorted(token for token in self._odds if self._against(token))

    def doubt(self, node: Node) -> str | None:
        """Why this token, as the followed endpoint shows it, counts for nothing yet; None: it counts."""
        if against := self._against(node.token_id):
            return f"out according to {', '.join(sorted(against))}"
        held = self._held(node.token_id)
        if held is None or not is_same_member(held, node):
            return f"fewer than {self.needed} endpoints have shown it"
        return None

    def ends(self, node: Node) -> int:
        """When access ends, of what is vouched for: an end that one endpoint alone has put off is none."""
        ends = [x.expires_at for x in (node, self._held(node.token_id)) if x is not None and x.expires_at]
        return min(ends, default=0)

    def confirms(self, node: Node) -> bool:
        """Whether a token in that very form could be restored without asking anybody."""
        return not self._against(node.token_id) and covers(self._held(node.token_id), node)

    def _held(self, token: TokenId) -> Node | None:
        return self._vouched[token][0] if token in self._vouched else None

    def _against(self, token: TokenId) -> list[str]:
        return [name for name, odds in self._odds.get(token, {}).items() if odds.out]

    # -- what happens ---------------------------------------------------------------------------------

    def remember(self, nodes: Iterable[Node], height: int) -> None:
        """These were vouched for before a restart, at that height or below."""
        self._vouched |= {node.token_id: (node, height) for node in nodes}

    def followed(self, tokens: Iterable[TokenId], registry: Registry) -> None:
        """The followed endpoint shows these tokens as they are in the registry now."""
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
                # What is cut short is not to be put off again by one endpoint alone.
                held, self._vouched[token] = node, (node, self._vouched[token][1])
            if covers(held, node):
                self._pending.discard(token)
            else:
                self._pending.add(token)

    def questions(self, height: int) -> list[TokenId]:
        """The tokens to ask the others about, at that height: who are not vouched for, or at odds about."""
        due = {t for t, odds in self._odds.items() if max(x.height for x in odds.values()) <= height}
        return sorted(self._pending | due)

    def discard(self, endpoint: str) -> frozenset[TokenId]:
        """What this endpoint has said against others is void: it lies. Returns whom that concerns."""
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
        """Take in what endpoints say of tokens, compared with what we held (``asked``) at that block.

        ``now`` is what we hold by now. Nobody is judged by a token that has changed since, or that is
        ``unsettled``: logs of blocks above ours speak of it. A word that takes it away still counts.
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
        """The tokens of which these words may change anything: of thousands of tokens, mostly none."""
        found = self._pending | self._odds.keys() | self.contested.keys()
        found = {token for token in found if any(token in w.same or token in w.differs for w in words)}
        return found.union(*(word.differs for word in words))

    def _settle(
        self, token: TokenId, ours: Node | None, words: Sequence[Comparison], contradicted: dict[str, str]
    ) -> set[TokenId]:
        """Find out whether k agree about a token, and who lies then; returns it if it is vouched for now."""
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
        """Who is at odds with us about the token now, and who no more."""
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
        """What another word means; None where it is no more than an old or a foreign block's."""
        out = in_force(ours) and (
            not in_force(theirs) or theirs is None or ours is None or not is_same_member(theirs, ours)
        )
        if not word.on_our_chain:
            since = self._vouched[token][1] if token in self._vouched else None
            if not out or since is None or word.height < since:
                return None
        return Odds(word.height, out)

    def _shorten(self, token: TokenId, theirs: Node | None, height: int) -> bool:
        """Somebody may show an end that is sooner: it counts, though the token stays in until then."""
        held = self._held(token)
        if held is None or theirs is None or not in_force(theirs) or lasts(theirs, held):
            return False
        self._vouched[token] = theirs, height
        self._pending.add(token)
        return True


def _camps(token: TokenId, words: Sequence[Comparison]) -> list[list[str]]:
    """Who says otherwise of one and the same block, by what they say."""
    camps: dict[Node | None, list[str]] = {}
    for word in words:
        if word.definitive and token in word.differs:
            camps.setdefault(word.differs[token], []).append(word.endpoint)
    return list(camps.values())


def _accuse(contradicted: dict[str, str], names: Iterable[str], token: TokenId) -> None:
    for name in names:
        contradicted.setdefault(name, f"what it says of token {token} is not what the others say")
