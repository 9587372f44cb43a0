"""The record of decisions equals `decide` after each step of a random history."""

import ipaddress
from dataclasses import dataclass, field, replace
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.property.test_quorum import block, step
from tests.scripted import key, members_of

from dstack_vpn.core.access.addressing import AddressPlan, unique_local_prefix
from dstack_vpn.core.access.control import NodeIdentity
from dstack_vpn.core.access.decisions import Standing, standing
from dstack_vpn.core.access.membership import PeerPolicy
from dstack_vpn.core.access.quorum import Quorum
from dstack_vpn.core.access.replies import Comparison, Reply, compare
from dstack_vpn.core.access.staleness import Staleness, StalePolicy
from dstack_vpn.core.chain.commands import Advanced
from dstack_vpn.core.chain.events import TokenState
from dstack_vpn.core.chain.node import Node
from dstack_vpn.core.chain.registry import Registry
from dstack_vpn.core.model import BlockRef, ChainIdentity, Peer, Position, TokenId
from dstack_vpn.core.observe.event import Event
from dstack_vpn.core.observe.events import Decided, DecisionsChanged
from dstack_vpn.ports import Checkpoint

PLAN = AddressPlan(ipaddress.IPv4Network("10.77.0.0/24"), unique_local_prefix(1, "0x" + "0" * 40))
OWN = key(10)
UNKNOWN = "unknown"
ALL_TOKENS = range(6)


@dataclass
class ManualClock:
    """A clock that a test moves."""

    at: float = 1.0

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at


@dataclass
class Player:
    """A `Members` over a random history, and what it announced."""

    random: Random
    confirmations: int
    needed: int | None
    clock: ManualClock = field(default_factory=ManualClock)
    announced: list[Decided] = field(default_factory=list)
    state: dict[TokenId, Node] = field(default_factory=dict)
    tip: int = 5
    fork: int = 0

    def __post_init__(self) -> None:
        self.members = members_of(
            PeerPolicy(),
            PLAN,
            self.clock,
            own_key=OWN,
            identity=NodeIdentity("node-1"),
            confirmations=self.confirmations,
            quorum=None if self.needed is None else Quorum(self.needed),
            staleness=Staleness(self.random.choice([7.0, 1e9]), StalePolicy.ISOLATE),
            publish=self.hear,
        )
        self.recorded: dict[TokenId, Standing] = {}

    def hear(self, what: Event) -> None:
        if isinstance(what, Decided):
            self.announced.append(what)
        elif isinstance(what, DecisionsChanged):
            self.announced += what.decisions

    # -- what may happen ---------------------------------------------------------------------------

    def event(self) -> None:
        """Events in the next block: tokens become others, two may claim one key."""
        self._show(self._changed(), self.tip + 1)

    def reorg(self) -> None:
        """Another branch, which may be shorter."""
        self.fork += 1
        self._show(self._changed(), max(self.tip - self.random.randrange(4), 1))

    def head(self) -> None:
        """Blocks without events."""
        self._show(self.state, self.tip + self.random.randrange(1, 4))

    def time(self) -> None:
        self.clock.at += self.random.choice([0.5, 3.0, 11.0])
        self.members.expire()
        self.check()  # a decision may change here, and again below
        self.members.grow_old()

    def quorum(self) -> None:
        """Other endpoints answer about the tokens, honestly or not."""
        if self.members.quorum is None:
            return
        ours, at = Registry.of(self.state.values()), self._block()
        shown = [self.random.choice([self.state, self._changed(), {}]) for _ in range(2)]
        words = [self._word(f"e{number}", ours, state, at) for number, state in enumerate(shown)]
        words.append(self._word("followed", ours, self.state, at))
        verdict = self.members.quorum.judge(ours, ours, words)
        self.members.quorum_changed(verdict.changed)

    def strike(self) -> None:
        if self.members.quorum is not None:
            self.members.quorum_changed(self.members.quorum.discard("e1"))

    def pin(self) -> None:
        keys = {*self.members.membership.peers, key(20), key(30)}
        chosen = {key: Peer(key, frozenset()) for key in keys if self.random.random() < 0.5}
        self.members.pin(None if self.random.random() < 0.5 else chosen)

    def confirmed(self) -> None:
        self.members.confirmed()

    # -- the comparison ----------------------------------------------------------------------------

    def restore(self) -> None:
        """Start from what was stored; an earlier life has recorded the decisions about that."""
        self.state = self._changed()
        at = self._block()
        identity = ChainIdentity(1, "0x" + "0" * 64, "0x" + "0" * 40)
        self.members.restore(
            Checkpoint(identity, at, tuple(self.state.values()), (), at, frozenset(self.state), 0.5)
        )
        self.recorded = self.truth()
        self.announced.clear()

    def truth(self) -> dict[TokenId, Standing]:
        access, now = self.members.access, self.clock.now()
        found = {token: standing(access.decide(token, now)) for token in ALL_TOKENS}
        return {token: each for token, each in found.items() if each[1] != UNKNOWN}

    def check(self) -> None:
        """Check that each changed decision was published once, with its current reason."""
        before, after = self.recorded, self.truth()
        differ = {token for token in ALL_TOKENS if before.get(token) != after.get(token)}
        assert sorted(each.token for each in self.announced) == sorted(differ)
        access, now = self.members.access, self.clock.now()
        for each in self.announced:
            decision = access.decide(each.token, now)
            assert (each.granted, each.reason) == (decision.granted, str(decision))
        assert {token for _, token in self.members.membership.pairs()} == {
            token for token, (granted, *_) in after.items() if granted
        }
        self.recorded = after
        self.announced.clear()

    # -- helpers -----------------------------------------------------------------------------------

    def _changed(self) -> dict[TokenId, Node]:
        found = step(self.state, self.random)
        for token, node in found.items():
            if node != self.state.get(token):
                since = Position(self.random.randint(max(self.tip - 2, 0), self.tip), token)
                # Two tokens may claim one key, and one may claim ours.
                claimed = self.random.choice([node.public_key, key(20), OWN])
                found[token] = replace(node, public_key=claimed, key_since=since)
        return found

    def _show(self, state: dict[TokenId, Node], tip: int) -> None:
        before, self.state, self.tip = self.state, state, tip
        tokens = frozenset(t for t in ALL_TOKENS if before.get(t) != state.get(t))
        registry, at = Registry.of(state.values()), self._block()
        self.members.follower.bootstrapped(registry, at)
        self.members.advanced(Advanced(at, registry, tokens), self.clock.monotonic())

    def _block(self) -> BlockRef:
        return block(self.tip, f"-{self.fork}")

    def _word(self, name: str, ours: Registry, state: dict[TokenId, Node], at: BlockRef) -> Comparison:
        observed = [TokenState(token, state.get(token)) for token in ALL_TOKENS]
        same, differs = compare(ours, observed)
        return Comparison.of(Reply(name, at.hash, at, observed), at, same, differs)


STEPS = ("event", "reorg", "head", "time", "quorum", "strike", "pin", "confirmed")


@settings(max_examples=400)
@given(
    st.integers(0, 2**32),
    st.integers(0, 3),
    st.sampled_from([None, 2]),
    st.booleans(),
    st.lists(st.sampled_from(STEPS), max_size=14),
)
def test_the_record_is_what_decide_answers(
    seed: int, confirmations: int, needed: int | None, stored: bool, steps: list[str]
) -> None:
    player = Player(Random(seed), confirmations, needed)
    if stored:
        player.restore()
    player.confirmed()
    player.announced.clear()
    player.recorded = player.truth()
    for name in steps:
        getattr(player, name)()
        player.check()


def test_a_grant_that_a_later_head_confirms_is_recorded() -> None:
    player = Player(Random(1), 3, None)
    player.confirmed()
    player.state = {}
    player._show({1: Node(1, "0xa", "web", key(30), key_since=Position(6, 0))}, 6)
    (first,) = player.announced
    assert (first.granted, first.reason) == (False, "unconfirmed (0 of 3 blocks)")
    player.announced.clear()
    for height in (7, 8):
        player._show(player.state, height)
        assert player.announced == []
    player._show(player.state, 9)
    (last,) = player.announced
    assert (last.token, last.granted, last.reason) == (1, True, "active")


def test_what_a_pin_leaves_out_is_recorded() -> None:
    player = Player(Random(1), 0, None)
    player.confirmed()
    player.state = {}
    player._show({1: Node(1, "0xa", "web", key(30)), 2: Node(2, "0xa", "db", key(20))}, 6)
    player.announced.clear()
    player.members.pin({key(20): Peer(key(20), frozenset())})
    (out,) = player.announced
    assert (out.token, out.granted, out.reason) == (1, False, "not in the pinned configuration")
    player.announced.clear()
    player.members.pin(None)
    (back,) = player.announced
    assert (back.token, back.granted, back.reason) == (1, True, "active")
