"""Early removals: against a slow model, and in the membership of a node that follows a chain."""

import ipaddress
import math
from dataclasses import dataclass, field
from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.property.strategies import events as any_events
from tests.property.strategies import keys, owners
from tests.property.test_decisions import ManualClock
from tests.property.test_membership import TAGS, nodes_with_gateways
from tests.scripted import ScriptedChain, key, members_of

from dstack_vpn.core.access.addressing import AddressPlan, unique_local_prefix
from dstack_vpn.core.access.control import Reason
from dstack_vpn.core.access.decisions import standing
from dstack_vpn.core.access.early import DEADLINE, MOST, PASSED, PAUSE, EarlyRemovals, Ended, Preconfirmed
from dstack_vpn.core.access.membership import PeerPolicy
from dstack_vpn.core.access.replies import in_force
from dstack_vpn.core.chain.commands import Advanced, Command, Fetch, FetchEvents, FetchHead, FetchHeader
from dstack_vpn.core.chain.events import (
    EndpointUpdated,
    Granted,
    KeyUpdated,
    LoggedEvent,
    OwnerKeyUpdated,
    Reading,
    RegistryEvent,
    Revoked,
    TagsUpdated,
    Transferred,
)
from dstack_vpn.core.chain.follower import Follower
from dstack_vpn.core.chain.node import Node
from dstack_vpn.core.chain.registry import Registry, apply, tokens_of
from dstack_vpn.core.model import BlockRef, Position, TokenId
from dstack_vpn.core.paths.peer_endpoint import PeerEndpoint
from dstack_vpn.daemon.peers.members import Members

PLAN = AddressPlan(ipaddress.IPv4Network("10.77.0.0/24"), unique_local_prefix(1, "0x" + "0" * 40))
OWN = key(5)

tokens = st.integers(0, 5)
endings = st.one_of(
    st.builds(Revoked, tokens),
    st.builds(Transferred, tokens, owners),
    st.builds(KeyUpdated, tokens, keys),
    st.builds(OwnerKeyUpdated, owners, keys),
    st.builds(Granted, tokens, owners, st.sampled_from(["web", "db"]), keys),
)
events = st.one_of(
    endings,
    any_events.filter(lambda event: not isinstance(event, Reading)),
    st.builds(TagsUpdated, tokens, st.integers(0, 1)),
    st.builds(
        EndpointUpdated, tokens, st.sampled_from([None, *map(PeerEndpoint.parse, ("via:web", "via:db"))])
    ),
)
waits = st.sampled_from([0.5, 3.0, DEADLINE, PAUSE])


def one_each(nodes: list[Node]) -> list[Node]:
    """Return the nodes without repetitions of a token."""
    return list({node.token_id: node for node in nodes}.values())


# -- the rules, against a model --------------------------------------------------------------------


@dataclass
class Note:
    """A hint about one token, as it was taken."""

    token: TokenId
    event: RegistryEvent
    block: int | None
    at: float
    period: int
    """The same for all hints since the token went out."""
    is_over: bool = False
    is_false: bool = False


@dataclass
class Model:
    """The rules over the list of all hints. Nothing is forgotten."""

    notes: list[Note] = field(default_factory=list)
    ignored_until: float = -math.inf

    def out(self) -> set[TokenId]:
        return {note.token for note in self.notes if not note.is_over}

    def announced(self, hint: Preconfirmed, registry: Registry, height: int, now: float) -> None:
        if now < self.ignored_until or (hint.block is not None and hint.block <= height):
            return
        for token in registry.nodes:
            held = [note for note in self.notes if note.token == token and not note.is_over]
            known = any(note.event == hint.event for note in held)
            if takes(registry, token, hint.event) and not known and len(held) < MOST:
                period = held[0].period if held else len(self.notes)
                self.notes.append(Note(token, hint.event, hint.block, now, period))

    def ended(self, tokens: set[TokenId]) -> Ended:
        """Return the outcome of tokens that are not out any more."""
        last = {note.token: note.period for note in self.notes}
        false = {n.token for n in self.notes if n.is_false and n.period == last[n.token]} & tokens
        return Ended(frozenset(tokens - false), frozenset(false))

    def advanced(self, step: Advanced, now: float) -> None:
        for note in self.notes:
            blocks = [x.block_number for x in step.added if x.event == note.event]
            seen = any(number >= (note.block or 0) for number in blocks)
            passed = note.block is not None and step.tip.number >= note.block + PASSED
            self._judge(note, step.registry, now, seen=seen, fails=passed)

    def expire(self, registry: Registry, now: float) -> None:
        for note in self.notes:
            self._judge(note, registry, now, seen=False, fails=now >= note.at + DEADLINE)

    def _judge(self, note: Note, registry: Registry, now: float, *, seen: bool, fails: bool) -> None:
        if note.is_over:
            return
        if seen or not takes(registry, note.token, note.event):
            note.is_over = True
        elif fails:
            note.is_over = note.is_false = True
            self.ignored_until = now + PAUSE


def takes(registry: Registry, token: TokenId, event: RegistryEvent) -> bool:
    """Return whether the event ends the use of the token's key, by the fold over everything."""
    if not isinstance(event, Revoked | Transferred | KeyUpdated | OwnerKeyUpdated | Granted):
        return False
    before, after = registry.get(token), apply(registry, event, Position(99, 0))[0].get(token)
    if before is None or not in_force(before):
        return False
    return after is None or not in_force(after) or after.public_key != before.public_key


hints = st.builds(Preconfirmed, events, st.one_of(st.none(), st.integers(-2, 8)))
rules = st.lists(
    st.one_of(
        hints.map(lambda hint: ("hint", hint)),
        st.tuples(st.just("mine"), st.lists(events, max_size=3)),
        st.tuples(st.just("confirm"), st.integers(0, 20)),
        st.tuples(st.just("wait"), waits),
    ),
    max_size=30,
)


@settings(max_examples=400)
@given(nodes_with_gateways, rules)
def test_the_tokens_that_are_out_are_those_of_the_model(
    nodes: list[Node], script: list[tuple[Any, ...]]
) -> None:
    registry, tip, now = Registry.of(one_each(nodes), TAGS), 10, 0.0
    found, model, given_ = EarlyRemovals(), Model(), list[RegistryEvent]()
    for step in script:
        match step:
            case ("hint", Preconfirmed(event, block)):
                hint = Preconfirmed(event, None if block is None else tip + block)
                before = model.out()
                given_.append(event)
                model.announced(hint, registry, tip, now)
                assert found.announced(hint, registry, tip, now) == model.out() - before
            case ("mine" | "confirm" as kind, what):
                block_events = what if kind == "mine" else given_[what : what + 1]
                tip += 1
                advanced, touched = list[LoggedEvent](), set[TokenId]()
                for index, event in enumerate(block_events):
                    registry, change = apply(registry, event, Position(tip, index))
                    touched.update(tokens_of(change))
                    advanced.append(LoggedEvent(tip, f"h{tip}", index, event))
                made = Advanced(
                    BlockRef(tip, f"h{tip}", "", 0), registry, frozenset(touched), tuple(advanced)
                )
                before = model.out()
                model.advanced(made, now)
                assert found.advanced(made, now) == model.ended(before - model.out())
            case ("wait", seconds):
                now += seconds
                before = model.out()
                model.expire(registry, now)
                assert found.expire(registry, now) == model.ended(before - model.out())
        assert set(found.reasons) == set(found._hints) == model.out()
        assert found.ignored_until == model.ignored_until


# -- the membership --------------------------------------------------------------------------------


@dataclass
class Twins:
    """Two memberships over one follower, of which only the first gets hints."""

    nodes: list[Node]
    confirmations: int
    polled: bool
    random: Random
    clock: ManualClock = field(default_factory=ManualClock)
    chain: ScriptedChain = field(default_factory=ScriptedChain)
    pending: list[Fetch] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.follower = Follower()
        self.follower.bootstrapped(Registry.of(self.nodes, TAGS), self.chain.head)
        self.follower.subscribed_from(0, polled=self.polled)
        self.early, self.plain = self._members(), self._members()
        for members in (self.early, self.plain):
            members.confirmed()
            members.rebuild(0.0)

    def _members(self) -> Members:
        return members_of(
            PeerPolicy(),
            PLAN,
            self.clock,
            own_key=OWN,
            confirmations=self.confirmations,
            follower=self.follower,
        )

    def hint(self, event: RegistryEvent, ahead: int | None) -> None:
        block = None if ahead is None else self.chain.head.number + ahead
        before = self.follower.registry
        self.early.hinted(Preconfirmed(event, block))
        assert self.follower.registry is before

    def mine(self, *mined: RegistryEvent) -> None:
        facts = self.chain.mine(*mined)
        self.random.shuffle(facts)
        for fact in facts:
            if not (self.polled and isinstance(fact, BlockRef)) or self.random.random() < 0.3:
                self._obey(self.follower.receive(fact))
                self.check()

    def fork(self, depth: int, length: int) -> None:
        for fact in self.chain.rewind(depth):
            self._obey(self.follower.receive(fact))
            self.check()
        for _ in range(length):
            self.mine()

    def wait(self, seconds: float) -> None:
        self.clock.at += seconds
        for members in (self.early, self.plain):
            members.expire()

    def serve(self) -> None:
        """Answer the oldest fetch."""
        if not self.pending:
            return
        fetch, chain = self.pending.pop(0), self.chain
        match fetch:
            case FetchHead():
                commands = self.follower.fetched(fetch, chain.head)
            case FetchHeader(number):
                known = number < len(chain.blocks)
                commands = self.follower.fetched(fetch, chain.blocks[number] if known else None)
            case FetchEvents(first, last):
                known = chain.blocks[last.number : last.number + 1] == [last]
                commands = self.follower.fetched(fetch, chain.events(first, last.number) if known else None)
            case _:
                raise AssertionError(fetch)
        self._obey(commands)

    def settle(self) -> None:
        """Let the chain go on without events, and the deadlines pass."""
        for _ in range(2):
            for _ in range(PASSED + 4):
                self._obey(self.follower.receive(self.chain.mine()[0]))
                while self.pending:
                    self.serve()
            self.wait(2 * DEADLINE)

    def _obey(self, commands: list[Command]) -> None:
        for command in commands:
            match command:
                case Advanced():
                    for members in (self.early, self.plain):
                        members.advanced(command, self.clock.monotonic())
                case FetchHead() | FetchHeader() | FetchEvents():
                    self.pending.append(command)
                case _:
                    # All of our blocks are gone: as the session does, read everything.
                    self.follower.bootstrapped(self.chain_registry(), self.chain.head)
                    for members in (self.early, self.plain):
                        members.rebuild(self.clock.monotonic())

    def chain_registry(self) -> Registry:
        state = Registry.of(self.nodes, TAGS)
        for log in self.chain.events(0, len(self.chain.blocks)):
            state, _ = apply(state, log.event, Position(log.block_number, log.log_index))
        return state

    def check(self) -> None:
        """Check that hints give no access, and take none from other tokens."""
        mine, others = self.early.membership.peers, self.plain.membership.peers
        for peer_key, peer in mine.items():
            assert peer.allowed_ips <= others[peer_key].allowed_ips
        access, plain, now = self.early.access, self.plain.access, self.clock.now()
        for token, node in self.follower.registry.nodes.items():
            found, want = access.decide(token, now), plain.decide(token, now)
            if standing(found) != standing(want):
                assert want.granted and not found.granted
                assert found.reason in {Reason.EARLY, Reason.NO_GATEWAY}
                assert (found.reason is Reason.EARLY) == (token in self.early.early.reasons)
                assert found.reason is Reason.EARLY or node.via is not None
            elif want.granted:
                assert found.gateway == want.gateway
        fresh = type(self.early.membership)(self.early.policy, self.early.lookup)
        fresh.rebuild(access, now)
        assert fresh.peers == mine


script = st.lists(
    st.one_of(
        st.tuples(st.just("hint"), endings, st.one_of(st.none(), st.integers(-1, 3))),
        st.tuples(st.just("keep"), st.integers(0, 5)),
        st.tuples(st.just("mine"), st.lists(events, max_size=3)),
        st.tuples(st.just("fork"), st.integers(1, 4), st.integers(1, 6)),
        st.tuples(st.just("serve"), st.integers(1, 4)),
        st.tuples(st.just("wait"), waits),
    ),
    max_size=30,
)


@settings(max_examples=300, deadline=None)
@given(nodes_with_gateways, script, st.integers(0, 2), st.booleans(), st.randoms(use_true_random=False))
def test_hints_give_no_access_and_leave_no_trace(
    nodes: list[Node], script: list[tuple[Any, ...]], confirmations: int, polled: bool, random: Random
) -> None:
    twins, hinted = Twins(one_each(nodes), confirmations, polled, random), list[RegistryEvent]()
    for step in script:
        match step:
            case ("hint", event, ahead):
                hinted.append(event)
                twins.hint(event, ahead)
            case ("keep", count):
                twins.mine(*hinted[-count:])
            case ("mine", mined):
                twins.mine(*mined)
            case ("fork", depth, length):
                twins.fork(depth, length)
            case ("serve", count):
                for _ in range(count):
                    twins.serve()
                    twins.check()
            case ("wait", seconds):
                twins.wait(seconds)
        twins.check()
    twins.settle()
    assert not twins.early.early.waits
    assert twins.early.membership.peers == twins.plain.membership.peers
    assert twins.early.decisions._last == twins.plain.decisions._last
