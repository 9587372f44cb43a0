"""Fewer than k dishonest endpoints have no effect.

They grant no access, hide nothing from a resync, and get no honest endpoint accused.
"""

from dataclasses import dataclass, replace
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.scripted import key

from dstack_vpn.core.access.quorum import Quorum
from dstack_vpn.core.access.replies import (
    Comparison,
    Reply,
    allows,
    compare,
    in_force,
    is_same_member,
    judge_blocks,
)
from dstack_vpn.core.chain.events import TokenState
from dstack_vpn.core.chain.node import Node
from dstack_vpn.core.chain.registry import Registry
from dstack_vpn.core.model import BlockRef, TokenId
from dstack_vpn.core.paths.peer_endpoint import PeerEndpoint

TOKENS = range(1, 5)
State = dict[TokenId, Node]
VIA = PeerEndpoint.parse("via:node-1")
ROUTES = ("10.0.0.0/8", "fd00::/8")


def some_state(random: Random) -> State:
    return {
        token: Node(
            token,
            f"0x{random.randrange(2)}",
            f"node-{token}",
            key(10 * token + random.randrange(2)),
            active=random.random() < 0.7,
            expires_at=random.choice([0, 0, 10, 20]),
            tags=random.randrange(8),
            routes=random.choice([(), ROUTES[:1], ROUTES[1:], ROUTES]),
            endpoint=random.choice([None, None, VIA]),
        )
        for token in TOKENS
        if random.random() < 0.8
    }


def step(state: State, random: Random) -> State:
    """Advance the chain, usually with a change or two."""
    after = dict(state)
    for token in TOKENS:
        if random.random() < 0.3:
            fresh, old = some_state(random).get(token), after.get(token)
            if fresh is not None and old is not None and random.random() < 0.5:
                after[token] = replace(old, tags=fresh.tags, routes=fresh.routes)
            elif fresh is None:
                after.pop(token, None)
            else:
                after[token] = fresh
    return after


def block(number: int, fork: str = "") -> BlockRef:
    return BlockRef(number, f"h{number}{fork}", f"h{number - 1}{fork}", 0)


@dataclass
class World:
    """A chain, and honest and dishonest endpoints."""

    random: Random
    needed: int
    honest: list[str]
    liars: list[str]
    leader: str

    def __post_init__(self) -> None:
        self.history = [some_state(self.random)]
        self.quorum = Quorum(self.needed)
        self.registry = Registry()
        self.accused: set[str] = set()
        self.seen: dict[TokenId, list[Node]] = {}

    @property
    def tip(self) -> int:
        return len(self.history) - 1

    def go_on(self) -> None:
        self.history.append(step(self.history[-1], self.random))
        shown = self.history[-1] if self.leader in self.honest else self.lie(self.history[-1])
        before, self.registry = self.registry, Registry.of(shown.values())
        self.quorum.update({*before.nodes, *self.registry.nodes}, self.registry)

    def lie(self, state: State) -> State:
        return self.random.choice([state, step(state, self.random), {}, self.random.choice(self.history)])

    def statement(self, name: str) -> Reply:
        """Return a reply about the tip or an older head; a dishonest one may claim anything."""
        behind = self.random.random() < 0.2
        height = self.random.randint(0, self.tip) if behind else self.tip
        state, fork = self.history[height], ""
        if name in self.liars:
            state = self.random.choice([self.lie(state), dict(self.registry.nodes)])
            height = self.random.choice([height, self.tip, self.tip + 3])
            fork = self.random.choice(["", "", "'"])
        said = None if height < self.tip else block(self.tip, fork).hash
        observed = [TokenState(token, state.get(token)) for token in TOKENS]
        return Reply(name, said, block(height, fork), observed)

    def audit(self) -> list[Reply]:
        at = block(self.tip)
        own = Comparison.of(
            Reply(self.leader, at.hash, at),
            at,
            *compare(self.registry, [TokenState(t, self.registry.get(t)) for t in TOKENS]),
        )
        others = [n for n in (*self.honest, *self.liars) if n not in {self.leader, *self.accused}]
        statements = [self.statement(name) for name in others]
        words = [Comparison.of(s, at, *compare(self.registry, s.observed)) for s in statements]
        # The followed endpoint replies first, last, between the others, or not at all.
        if self.random.random() >= 0.2:
            words.insert(self.random.randint(0, len(words)), own)
        for count in range(1, len(words) + 1):
            heard = [word for word in words[:count] if word.endpoint not in self.accused]
            verdict = self.quorum.judge(self.registry, self.registry, heard)
            self.accused |= verdict.contradicted.keys()
        return statements

    def granted(self) -> list[Node]:
        return [n for n in self.registry.nodes.values() if in_force(n) and self.quorum.doubt(n) is None]


worlds = st.builds(
    lambda seed, needed, honest, liars, lead: World(
        Random(seed),
        needed,
        names := [f"honest{i}" for i in range(honest)],
        crooks := [f"liar{i}" for i in range(min(liars, needed - 1))],
        crooks[0] if lead and crooks else names[0],
    ),
    st.integers(0, 2**32),
    st.integers(2, 3),
    st.integers(1, 4),
    st.integers(0, 2),
    st.booleans(),
)


@settings(max_examples=300)
@given(worlds, st.integers(1, 8))
def test_fewer_than_k_liars_achieve_nothing(world: World, rounds: int) -> None:
    for _ in range(rounds):
        world.go_on()
        statements = world.audit()
        assert not world.accused & set(world.honest), "no honest endpoint is accused"
        for node in world.granted():
            real = [state[node.token_id] for state in world.history if node.token_id in state]
            members = [x for x in real if in_force(x) and is_same_member(x, node)]
            assert members, "who is granted was a member at some time"
            granted = world.quorum.granted(node)
            assert any(allows(x, granted) for x in members), "with these rights, and for so long"
            for said in statements:
                if said.endpoint in world.honest and said.at.number == world.tip:
                    shown = next(x.node for x in said.observed if x.token_id == node.token_id)
                    assert shown is not None
                    assert in_force(shown), "no honest endpoint that was heard shows it out"
                    assert is_same_member(shown, node)
                    assert allows(shown, granted), "no honest endpoint shows fewer rights"


@given(worlds)
def test_what_k_honest_endpoints_show_is_granted(world: World) -> None:
    """If the followed endpoint and k current ones are honest, the others exclude no member."""
    if world.leader not in world.honest or len(world.honest) < world.needed:
        return
    world.go_on()
    for _ in range(2):  # an endpoint that is contradicted in round one is ignored in round two
        world.random = Random(1)
        world.random.random = lambda: 0.99  # type: ignore[method-assign]  # no endpoint lags
        world.audit()
    kept_out = {n.token_id for n in world.registry.nodes.values() if in_force(n)} - {
        n.token_id for n in world.granted()
    }
    # A dishonest reply about a future block counts until that block has arrived.
    ahead = {
        t for t in kept_out if any(x.height > world.tip for x in world.quorum._contradictions[t].values())
    }
    assert kept_out == ahead


def test_who_makes_blocks_up() -> None:
    def said(name: str, head: int, *, earlier: bool | None = True) -> Reply:
        return Reply(name, "h", block(head), (), (), head, earlier)

    three = [said("a", 10), said("b", 10), said("c", 10)]
    assert judge_blocks(2, three, 9, {}) == {}
    assert judge_blocks(2, [*three[:2], said("c", 10, earlier=False)], 9, {}).keys() == {"c"}
    fork = [said("a", 10), said("b", 10, earlier=False), said("c", 10, earlier=False)]
    assert judge_blocks(2, fork, 9, {}).keys() == {"a"}
    assert judge_blocks(2, [*three[:2], said("c", 4, earlier=None)], 9, {}) == {}, (
        "one that lags contradicts nobody"
    )
    ahead = [said("a", 10), said("b", 8, earlier=None), said("c", 8, earlier=None)]
    assert judge_blocks(2, ahead, 9, {}).keys() == {"a"}, "k are not as late as that"
    assert judge_blocks(2, [said("a", 10), said("b", 99), said("c", 10)], 9, {"b": 98}).keys() == {"b"}
    assert judge_blocks(2, [said("b", 99), said("c", 10)], 9, {"b": 98}) == {}, (
        "one against one is nobody's fault"
    )
    assert judge_blocks(2, [said("a", 4), said("b", 10), said("c", 10)], None, {"b": 9, "c": 9}) == {}


def vouched_at(height: int, node: Node) -> tuple[Quorum, Registry, Comparison]:
    """Return a quorum of 2 with one token confirmed, and the followed endpoint's comparison."""
    quorum, registry, at = Quorum(2), Registry.of([node]), block(height)
    quorum.update([1], registry)
    own = Comparison("a", height, frozenset({1}), {})
    quorum.judge(registry, registry, [own, Comparison("b", height, frozenset({1}), {})])
    assert quorum.doubt(node) is None, at
    return quorum, registry, own


NODE = Node(1, "0xa", "node-1", key(1), expires_at=20)


def test_an_endpoint_that_lags_does_not_put_out_what_is_new() -> None:
    quorum, registry, own = vouched_at(9, NODE)
    lagging = Comparison("c", 8, frozenset(), {1: None}, on_our_chain=False, definitive=False)
    quorum.judge(registry, registry, [own, lagging])
    assert quorum.doubt(NODE) is None
    quorum.judge(registry, registry, [own, replace(lagging, height=9)])
    assert quorum.doubt(NODE) == "out according to c", "another fork, but not an older block"


def test_the_sooner_end_counts_whoever_shows_it() -> None:
    quorum, registry, own = vouched_at(9, NODE)
    sooner = Comparison("b", 10, frozenset(), {1: replace(NODE, expires_at=15)}, definitive=False)
    quorum.judge(registry, registry, [own, sooner])
    assert (quorum.doubt(NODE), quorum.granted(NODE).expires_at) == (None, 15), "it stays in until then"
    assert quorum.questions(10) == [1]


def test_an_end_that_was_brought_forward_takes_a_quorum_to_put_off() -> None:
    quorum, _, _ = vouched_at(9, NODE)
    quorum.update([1], Registry.of([replace(NODE, expires_at=15)]))
    quorum.update([1], Registry.of([NODE]))
    assert quorum.granted(NODE).expires_at == 15
    assert quorum.questions(9) == [1]


TAGGED = replace(NODE, tags=0b111, routes=ROUTES)


def test_tags_and_routes_that_another_endpoint_does_not_show_are_not_granted() -> None:
    quorum, registry, own = vouched_at(9, TAGGED)
    assert quorum.granted(TAGGED) == TAGGED
    theirs = replace(TAGGED, tags=0b1101, routes=ROUTES[1:])
    fewer = Comparison("b", 10, frozenset(), {1: theirs}, definitive=False)
    quorum.judge(registry, registry, [own, fewer])
    assert quorum.doubt(TAGGED) is None, "it stays in"
    assert quorum.granted(TAGGED) == replace(TAGGED, tags=0b101, routes=ROUTES[1:])
    assert quorum.questions(10) == [1]


def test_tags_and_routes_that_one_endpoint_adds_need_a_quorum() -> None:
    quorum, _, _ = vouched_at(9, NODE)
    registry = Registry.of([TAGGED])
    quorum.update([1], registry)
    assert quorum.granted(TAGGED) == NODE, "the member stays, without new rights"
    assert quorum.questions(9) == [1]
    own = Comparison("a", 10, frozenset({1}), {})
    assert quorum.judge(registry, registry, [own]).changed == frozenset()
    outcome = quorum.judge(registry, registry, [own, replace(own, endpoint="b")])
    assert outcome.changed == {1}
    assert quorum.granted(TAGGED) == TAGGED


def test_rights_that_were_taken_need_a_quorum_to_come_back() -> None:
    quorum, _, _ = vouched_at(9, TAGGED)
    quorum.update([1], Registry.of([replace(TAGGED, tags=0b1, routes=())]))
    quorum.update([1], Registry.of([TAGGED]))
    assert quorum.granted(TAGGED) == replace(TAGGED, tags=0b1, routes=())
    assert quorum.confirms(NODE) and not quorum.confirms(TAGGED)


def test_who_was_revoked_takes_a_quorum_to_come_back() -> None:
    quorum, _, _ = vouched_at(9, NODE)
    quorum.update([1], Registry.of([replace(NODE, active=False)]))
    quorum.update([1], Registry.of([NODE]))
    assert quorum.doubt(NODE) == "fewer than 2 endpoints have shown it"


def test_a_gateway_that_one_endpoint_shows_alone_does_not_count() -> None:
    quorum, _, _ = vouched_at(9, NODE)
    moved = replace(NODE, endpoint=PeerEndpoint.parse("via:node-9"))
    registry = Registry.of([moved])
    quorum.update([1], registry)
    assert quorum.doubt(moved) == "fewer than 2 endpoints have shown it"
    own = Comparison("a", 10, frozenset({1}), {})
    quorum.judge(registry, registry, [own, replace(own, endpoint="b")])
    assert quorum.doubt(moved) is None
    other = Comparison("c", 11, frozenset(), {1: NODE}, definitive=False)
    quorum.judge(registry, registry, [own, other])
    assert quorum.doubt(moved) == "out according to c"
