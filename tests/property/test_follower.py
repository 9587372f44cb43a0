"""The follower ends with the chain's state after any messages of an honest endpoint.

The endpoint may lose, repeat and reorder messages. The model is a tree of blocks with real hashes.
A run mines, forks, swaps messages, repeats them, loses heads, and loses whole sessions. In the end,
one more head must bring the follower's registry to the state that a plain fold of the canonical
chain gives.
"""

from collections import deque
from random import Random
from typing import Any, TypeAlias

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.scripted import ScriptedChain, key

from dstack_vpn.core.access.membership import keys_of
from dstack_vpn.core.chain.commands import (
    Advanced,
    Command,
    Fetch,
    FetchEvents,
    FetchHead,
    FetchHeader,
    Leave,
    Reload,
)
from dstack_vpn.core.chain.events import Granted, KeyUpdated, LoggedEvent, RegistryEvent, Revoked, Transferred
from dstack_vpn.core.chain.extension import Extension
from dstack_vpn.core.chain.follower import NEXT, Follower
from dstack_vpn.core.chain.registry import Registry
from dstack_vpn.core.model import BlockRef
from dstack_vpn.core.wireguard.keys import PublicKey

Script: TypeAlias = list[tuple[Any, ...]]
Events: TypeAlias = list[RegistryEvent]

tokens = st.integers(1, 4)
events = st.one_of(
    st.builds(lambda t, k: Granted(t, f"0xowner{t}", f"node-{t}", key(k)), tokens, st.integers(0, 5)),
    st.builds(Revoked, tokens),
    st.builds(Transferred, tokens, st.sampled_from(["0xa", "0xb"])),
    st.builds(lambda t, k: KeyUpdated(t, key(k)), tokens, st.integers(0, 5)),
)


def answer(chain: ScriptedChain, fetch: Fetch) -> BlockRef | list[LoggedEvent] | None:
    match fetch:
        case FetchHead():
            return chain.blocks[-1]
        case FetchHeader(number):
            return chain.blocks[number] if number < len(chain.blocks) else None
        case FetchEvents(first, last):
            return chain.events(first, last.number)


class Driver:
    """A driver that feeds a follower and answers its fetches when the test asks for it."""

    def __init__(self, chain: ScriptedChain) -> None:
        self.chain, self.pending = chain, deque[Fetch]()
        self.follower = Follower()
        self.follower.bootstrapped(Registry(), chain.blocks[0])
        self.seen, self.peers = Registry(), set[PublicKey]()
        """A consumer's view: the last command's registry, and the peers after all commands."""

    def members(self) -> set[PublicKey]:
        """Return the keys of the active tokens in the registry."""
        nodes = self.follower.registry.nodes.values()
        return {n.public_key for n in nodes if n.active and isinstance(n.public_key, PublicKey)}

    def take(self, commands: list[Command]) -> None:
        for command in commands:
            match command:
                case Advanced():
                    concerned = keys_of(command.tokens, self.seen, command.registry)
                    self.peers = self.peers - concerned | concerned & self.members()
                    self.seen = command.registry
                case Reload():
                    raise AssertionError("block 0 is always common ground")
                case Leave():
                    self.lose_session()
                case fetch:
                    self.pending.append(fetch)

    def receive(self, fact: BlockRef | LoggedEvent) -> None:
        self.take(self.follower.receive(fact))

    def extend(self, *, knows: bool) -> None:
        """Process the chain's end after our tip; ``knows``: a revision shows changes."""
        tip, (*below, latest) = self.follower.tip, self.chain.blocks
        if tip in below:
            changed = bool(self.chain.events(tip.number + 1, latest.number))
            found = Extension(tip, below[-1], None)
            self.take(self.follower.extended(found, unchanged=not changed if knows else None))

    def serve(self) -> None:
        if self.pending:
            fetch = self.pending.popleft()
            self.take(self.follower.fetched(fetch, answer(self.chain, fetch)))

    def lose_session(self) -> None:
        self.pending.clear()
        self.follower.abandon()

    def restart(self) -> None:
        """Start a new process from the events and the tip that the last one has stored."""
        self.pending.clear()
        timeline, settled, tip = self.follower.timeline, self.follower.settled, self.follower.tip
        assert settled is not None and tip is not None
        self.follower = Follower()
        self.follower.restore(timeline.base, settled, timeline.events, tip)
        self.seen, self.peers = self.follower.registry, self.members()

    def settle(self) -> None:
        """Let the chain be quiet: announce the newest head again, and answer every fetch."""
        self.receive(self.chain.blocks[-1])
        while self.pending:
            self.serve()
        self.receive(self.chain.blocks[-1])
        while self.pending:
            self.serve()


steps = st.lists(
    st.one_of(
        st.tuples(st.just("mine"), st.lists(events, max_size=3)),
        st.tuples(st.just("fork"), st.integers(1, 6), st.integers(1, 8)),
        st.tuples(st.just("serve"), st.integers(1, 4)),
        st.tuples(st.just("lose"), st.just(0)),
        st.tuples(st.just("restart"), st.just(0)),
    ),
    max_size=40,
)


@settings(max_examples=400)
@given(steps, st.randoms(use_true_random=False))
def test_any_order_of_messages_ends_with_what_the_chain_says(script: Script, rng: Random) -> None:
    chain = ScriptedChain()
    driver = Driver(chain)
    for step in script:
        facts: list[BlockRef | LoggedEvent] = []
        match step:
            case ("mine", block_events):
                facts = chain.mine(*block_events)
            case ("fork", depth, length):
                gone = chain.rewind(depth)
                facts = [*gone] if rng.random() < 0.5 else []
                for _ in range(length):
                    facts += chain.mine()
            case ("serve", count):
                for _ in range(count):
                    driver.serve()
            case ("restart", _):
                driver.restart()
            case _:
                driver.lose_session()
        # Heads may be lost or repeated. Logs may be repeated and reordered. A log that no walk
        # would fetch again is not lost here: the resync covers that case.
        facts = [f for f in facts if not isinstance(f, BlockRef) or rng.random() < 0.9]
        facts += [f for f in facts if rng.random() < 0.2]
        rng.shuffle(facts)
        for fact in facts:
            driver.receive(fact)
    chain.mine()
    # After a restart, the follower waits if the chain is shorter than the stored one: the endpoint
    # may only lag.
    while chain.head.number <= (driver.follower.tip or chain.head).number:
        chain.mine()
    driver.settle()
    assert driver.follower.tip == chain.blocks[-1]
    assert driver.follower.registry == chain.registry()
    assert driver.peers == driver.members()


polled_steps = st.lists(
    st.one_of(
        st.tuples(st.just("mine"), st.lists(events, max_size=3)),
        st.tuples(st.just("mine"), st.just([])),
        st.tuples(st.just("fork"), st.integers(1, 6), st.integers(1, 8)),
        st.tuples(st.just("poll"), st.just(0)),
        st.tuples(st.just("extend"), st.booleans()),
        st.tuples(st.just("serve"), st.integers(1, 4)),
        st.tuples(st.just("settle"), st.integers(0, 8)),
        st.tuples(st.just("lose"), st.just(0)),
        st.tuples(st.just("restart"), st.just(0)),
    ),
    max_size=40,
)


@settings(max_examples=600)
@given(st.booleans(), polled_steps, st.randoms(use_true_random=False))
def test_with_polled_heads_any_order_ends_with_what_the_chain_says(
    announces: bool, script: Script, rng: Random
) -> None:
    """At most logs are announced, those of reorgs included, and each in its step."""
    chain = ScriptedChain()
    driver = Driver(chain)

    def begin() -> None:
        driver.follower.subscribed_from(chain.head.number if announces else None, polled=announces)

    begin()
    final = 0
    for step in script:
        logs: list[LoggedEvent] = []
        match step:
            case ("mine", block_events):
                logs = [x for x in chain.mine(*block_events) if isinstance(x, LoggedEvent)]
            case ("fork", depth, length):
                gone = chain.rewind(min(depth, chain.head.number - final))
                logs = [*gone] if rng.random() < 0.5 else []
                for _ in range(length):
                    chain.mine()
            case ("poll", _):
                driver.receive(chain.head)
            case ("extend", knows):
                driver.extend(knows=knows)
            case ("serve", count):
                for _ in range(count):
                    driver.serve()
            case ("settle", depth):
                tip = driver.follower.tip
                # A comparison at our tip comes first: the endpoint has that block.
                if tip in chain.blocks and driver.follower.settle(
                    chain.blocks[max(tip.number - depth, final)]
                ):
                    settled = driver.follower.settled
                    final = final if settled is None else settled.number
            case ("restart", _):
                driver.restart()
                begin()
            case _:
                driver.lose_session()
                begin()
        logs += [x for x in logs if rng.random() < 0.2]
        rng.shuffle(logs)
        for log in logs if announces else ():
            driver.receive(log)
    # An event of a fork stays until the chain has reached its height.
    heights = [x.block_number for x in driver.follower.timeline.events]
    highest = max([*heights, (driver.follower.tip or chain.head).number, chain.head.number])
    while chain.head.number <= highest:
        chain.mine()
    driver.settle()
    chain.mine()
    driver.settle()
    assert driver.follower.tip == chain.blocks[-1]
    assert driver.follower.registry == chain.registry()
    assert driver.peers == driver.members()


late_steps = st.lists(
    st.one_of(
        st.tuples(st.just("mine"), st.lists(events, max_size=2), st.integers(0, 3)),
        st.tuples(st.just("poll"), st.booleans()),
        st.tuples(st.just("announce"), st.integers(1, 3)),
        st.tuples(st.just("extend"), st.booleans()),
        st.tuples(st.just("serve"), st.integers(1, 4)),
    ),
    max_size=30,
)


@settings(max_examples=1000)
@given(late_steps)
def test_with_polled_heads_each_late_log_is_applied(script: Script) -> None:
    """The backend that announces logs lags behind those that reply to polls."""
    chain = ScriptedChain()
    driver = Driver(chain)
    driver.follower.subscribed_from(0, polled=True)
    late = deque[LoggedEvent]()
    for step in [*script, ("announce", 60), ("serve", 60)]:
        match step:
            case ("mine", block_events, empty):
                late += [x for x in chain.mine(*block_events) if isinstance(x, LoggedEvent)]
                for _ in range(empty):
                    chain.mine()
            case ("poll", served):
                driver.receive(chain.head)
                while served and driver.pending:
                    driver.serve()
            case ("announce", count):
                for _ in range(min(count, len(late))):
                    driver.receive(late.popleft())
            case ("extend", knows):
                driver.extend(knows=knows)
            case ("serve", count):
                for _ in range(count):
                    driver.serve()
    assert driver.follower.registry == chain.registry()
    assert driver.peers == driver.members()


@settings(max_examples=200)
@given(st.lists(events, min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_a_mint_that_a_reorg_moves_is_never_taken_away_in_between(block_events: Events, rng: Random) -> None:
    chain = ScriptedChain()
    driver = Driver(chain)
    for fact in chain.mine(*block_events):
        driver.receive(fact)
    before = driver.follower.registry
    chain.rewind(1)
    facts = chain.mine() + chain.mine(*block_events)
    for fact in facts:
        if isinstance(fact, BlockRef):
            driver.receive(fact)
            while driver.pending:
                driver.serve()
                seen = {t: n.public_key for t, n in driver.follower.registry.nodes.items()}
                assert seen == {t: n.public_key for t, n in before.nodes.items()}


def test_a_key_that_goes_in_the_last_of_several_steps_at_once_goes() -> None:
    """Heads that arrive during a walk are applied at its end, in one answer of the follower."""
    chain = ScriptedChain()
    driver = Driver(chain)
    for fact in chain.mine(Granted(1, "0xa", "a", key(1))):
        driver.receive(fact)
    chain.mine()
    driver.receive(chain.mine()[0])  # after a gap: a walk begins
    head, log = chain.mine(KeyUpdated(1, key(2)))
    driver.receive(log)
    driver.receive(head)
    while driver.pending:
        driver.serve()
    assert driver.follower.tip == head
    assert driver.peers == {key(2)}


def test_after_a_walk_one_other_goes_to_the_newest_of_all_heads_that_came() -> None:
    """With one walk for each head, an endpoint slower than its blocks would lag more and more."""
    chain = ScriptedChain()
    driver = Driver(chain)
    driver.follower.subscribed_from(None)
    for _ in range(3 * NEXT):
        driver.receive(next(x for x in chain.mine() if isinstance(x, BlockRef)))
    fetched = 0
    while driver.pending:
        fetched += isinstance(driver.pending[0], FetchEvents)
        driver.serve()
    assert driver.follower.tip == chain.blocks[-1]
    assert fetched == 2


def test_a_restart_between_a_log_and_its_head_takes_the_head_when_it_comes() -> None:
    chain = ScriptedChain()
    driver = Driver(chain)
    head, log = sorted(chain.mine(Granted(1, "0xa", "a", key(1))), key=lambda x: isinstance(x, LoggedEvent))
    driver.receive(log)
    driver.restart()
    driver.receive(head)
    while driver.pending:
        driver.serve()
    assert driver.follower.tip == head
    assert driver.follower.registry == chain.registry()


def test_a_wiped_chain_is_a_resync_and_changes_nothing_by_itself() -> None:
    chain = ScriptedChain()
    driver = Driver(chain)
    for fact in chain.mine(Granted(1, "0xa", "a", key(1))):
        driver.receive(fact)
    before = driver.follower.registry
    other = [BlockRef(i, f"x{i}", f"x{i - 1}", 0) for i in range(5)]
    commands = driver.follower.receive(other[4])
    while commands and not isinstance(commands[-1], Reload):
        fetch = commands[-1]
        assert isinstance(fetch, FetchHeader)
        commands = driver.follower.fetched(fetch, other[fetch.number])
    assert isinstance(commands[-1], Reload)
    assert driver.follower.registry is before


def test_an_endpoint_that_goes_back_below_what_is_settled_takes_nothing_back() -> None:
    chain = ScriptedChain()
    driver = Driver(chain)
    for number in range(1, 8):
        for fact in chain.mine(Granted(number, "0xa", f"n{number}", key(number))):
            driver.receive(fact)
    driver.receive(chain.mine(Revoked(1))[0])
    driver.settle()
    assert driver.follower.settle(chain.blocks[7])
    before, tip = driver.follower.registry, driver.follower.tip
    for begun in (False, True):
        if begun:  # a process that has no block from before its start
            driver.follower.bootstrapped(before, chain.blocks[-1])
        for old in chain.blocks[1:6]:
            commands = driver.follower.receive(old)
            while commands:
                assert isinstance(commands[-1], FetchHead | FetchHeader)
                found = old if isinstance(commands[-1], FetchHead) else None
                commands = driver.follower.fetched(commands[-1], found)
            assert driver.follower.registry == before
            assert driver.follower.tip == tip


def test_a_chain_that_forks_below_what_is_settled_is_read_anew() -> None:
    chain = ScriptedChain()
    driver = Driver(chain)
    for _ in range(8):
        driver.receive(chain.mine()[0])
    assert driver.follower.settle(chain.blocks[6])
    chain.rewind(4)
    commands = driver.follower.receive(chain.mine()[0])
    while isinstance(commands[-1], FetchHead | FetchHeader):
        commands = driver.follower.fetched(commands[-1], answer(chain, commands[-1]))
    assert isinstance(commands[-1], Reload)


def test_an_answer_that_no_walk_waits_for_says_nothing() -> None:
    chain = ScriptedChain()
    driver = Driver(chain)
    driver.receive(chain.mine()[0])
    tip = driver.follower.tip
    assert driver.follower.receive(BlockRef(1, "other", "h0", 0)) == [FetchHead()]
    for answered in (chain.blocks[0], None):
        assert driver.follower.fetched(FetchHeader(0), answered) == []
    assert driver.follower.tip == tip


def test_a_session_that_contradicts_itself_is_left() -> None:
    chain = ScriptedChain()
    follower = Follower()
    follower.bootstrapped(Registry(), chain.blocks[0])
    chain.mine()
    chain.mine()
    commands = follower.receive(chain.blocks[-1])
    for n in range(100):
        match commands[-1]:
            case FetchHeader(0) | FetchEvents() as fetch:
                commands = follower.fetched(fetch, answer(chain, fetch))
            case FetchHeader() as fetch:
                commands = follower.fetched(fetch, BlockRef(fetch.number, f"lie{n}", "", 0))
            case FetchHead() as fetch:
                commands = follower.fetched(fetch, BlockRef(2, f"other{n}", "", 0))
            case Leave():
                return
    raise AssertionError("never left")


def test_an_extension_moves_the_tip_only_if_nothing_was_missed() -> None:
    chain = ScriptedChain()
    driver = Driver(chain)
    driver.follower.subscribed_from(None)
    for _ in range(3):
        chain.mine()
    found = Extension(chain.blocks[0], chain.blocks[2], None)
    driver.take(driver.follower.extended(found, unchanged=True))
    assert driver.follower.tip == chain.blocks[2]
    assert driver.follower.extended(found, unchanged=True) == [], "it is no longer our tip"
    chain.mine(Granted(1, "0xa", "node-1", key(1)))
    chain.mine()
    found = Extension(chain.blocks[2], chain.blocks[4], None)
    assert driver.follower.extended(found, unchanged=None) == [FetchEvents(3, chain.blocks[4])]
    assert driver.follower.extended(found, unchanged=None) == [], "a walk is under way"
    driver.lose_session()
    assert driver.follower.extended(found, unchanged=False) == [FetchHead()], "the latest block may have it"


def test_a_change_that_was_not_announced_is_fetched() -> None:
    chain = ScriptedChain()
    driver = Driver(chain)
    driver.follower.subscribed_from(0, polled=True)
    chain.mine()
    chain.mine(Granted(1, "0xa", "node-1", key(1)))
    driver.extend(knows=True)
    while driver.pending:
        driver.serve()
    assert driver.follower.tip == chain.head
    assert driver.follower.registry == chain.registry()
