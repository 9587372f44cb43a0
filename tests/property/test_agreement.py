"""An audit by revision finds every difference that a full reading would find.

The chain makes random changes, also in reorgs. The endpoint hides the logs of some blocks, and
announces logs that are not on the chain. The session driver and the follower are the daemon's.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Network

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs
from tests.scripted import IDENTITY, ScriptedChain, ScriptedSource, grant, key, left, members_of
from tests.simulation.loop import LoopClock, simulate

from dstack_vpn.core.access.addressing import AddressPlan, unique_local_prefix
from dstack_vpn.core.access.membership import PeerPolicy
from dstack_vpn.core.access.replies import Question
from dstack_vpn.core.chain.agreement import REPEATS, Agreement
from dstack_vpn.core.chain.events import (
    ExpiryUpdated,
    KeyUpdated,
    LoggedEvent,
    RegistryEvent,
    Revoked,
    TagsUpdated,
    TokenState,
    Transferred,
)
from dstack_vpn.core.chain.registry import contradicts
from dstack_vpn.core.model import BlockRef
from dstack_vpn.daemon.chain.bootstrap import SAFE_DEPTH
from dstack_vpn.daemon.chain.quorum_session import FollowedVerifier
from dstack_vpn.daemon.chain.session import SessionDriver
from dstack_vpn.daemon.chain.state import ChainState
from dstack_vpn.errors import EndpointError
from dstack_vpn.ports import ChainFact

FIRST = 1
"""The block at which the driver begins."""
TOKENS = st.integers(1, 4)


@dataclass(frozen=True)
class Kind:
    """A kind of contract."""

    enumerates: bool
    roots: bool
    """True if it has no revision."""


NUMBER, FIRST_VERSION, DEPLOYED = Kind(True, False), Kind(True, True), Kind(False, True)
KINDS = (NUMBER, FIRST_VERSION, DEPLOYED)
FULL = {
    FIRST_VERSION: ["revision", "read_all", "finalized"],
    DEPLOYED: ["revision", "read_all", "events", "read_tokens", "finalized"],
}
"""The calls of a full reading."""
ELSE = Revoked(99)
"""An event without an effect on any token."""
EVENTS = st.one_of(
    st.just(ELSE),
    st.builds(grant, TOKENS, st.integers(1, 8)),
    st.builds(Revoked, TOKENS),
    st.builds(KeyUpdated, TOKENS, st.integers(1, 8).map(key)),
    st.builds(Transferred, TOKENS, st.sampled_from(["0xowner1", "0xowner2"])),
    st.builds(ExpiryUpdated, TOKENS, st.sampled_from([0, 2**40])),
    st.builds(TagsUpdated, TOKENS, st.integers(0, 3)),
)
BLOCK = st.lists(EVENTS, max_size=2)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("mine"), BLOCK),
        st.tuples(st.just("hide"), BLOCK),
        st.tuples(st.just("forge"), BLOCK),
        st.tuples(st.just("reorg"), BLOCK),
        st.tuples(st.just("hidden reorg"), BLOCK),
        st.tuples(st.just("audit"), st.just([])),
        st.tuples(st.just("audit"), st.just([])),
    ),
    max_size=14,
)


@dataclass
class Hiding(ScriptedSource):
    """An endpoint that hides the logs of some blocks. Its states and revisions are honest."""

    hidden: set[str] = field(default_factory=set)
    """The hashes of those blocks."""
    during: Callable[[], Awaitable[None]] | None = None
    """Runs once, between the next full reading and its reply."""
    delayed: int = 0
    """The number of audits in which the hidden logs are hidden as well."""

    async def events(self, first: int, last: int) -> list[LoggedEvent]:
        found, late = await super().events(first, last), self.delayed > 0
        self.delayed -= late
        return [x for x in found if not (late and x.block_hash in self.hidden)]

    async def events_up_to(self, first: int, last: object) -> list[LoggedEvent] | None:
        found = await super().events_up_to(first, last)  # type: ignore[arg-type]  # passed on
        return None if found is None else [x for x in found if x.block_hash not in self.hidden]

    async def read_all(self, at: BlockRef) -> list[TokenState] | None:
        found = await super().read_all(at)
        if (during := self.during) is not None:
            self.during = None
            await during()
        return found


def blocks(session: Hiding, *block_events: Sequence[RegistryEvent], hide: bool) -> list[ChainFact]:
    """Mine a block for each list of events; return what the endpoint announces."""
    facts: list[ChainFact] = []
    for each in block_events:
        head, *logs = session.chain.mine(*each)
        if hide:
            session.hidden.add(session.chain.head.hash)
        facts += [head, *(() if hide else logs)]
    return facts


@dataclass
class Audited:
    """A session driver on a hiding endpoint."""

    session: Hiding
    driver: SessionDriver

    async def step(self, kind: str, events: Sequence[RegistryEvent]) -> None:
        """Make one step; after an audit, check that our registry is the contract's."""
        if kind == "audit":
            await self.audit()
            return
        chain, hide = self.session.chain, kind in ("hide", "hidden reorg")
        facts: list[ChainFact]
        if "reorg" in kind:
            # Not below the first reading, after which the whole registry would be read again.
            depth = min(2, len(chain.blocks) - 1 - FIRST)
            gone = len(chain.rewind(depth))
            # As many events on the new fork, so the revisions of both are equal.
            new = [events[index % len(events)] for index in range(gone)] if events else []
            facts = blocks(self.session, new, *[[]] * depth, hide=hide)
        elif kind == "forge":
            facts = blocks(self.session, [], hide=False)
            at = chain.head
            facts += [LoggedEvent(at.number, at.hash, index, event) for index, event in enumerate(events)]
        else:
            facts = blocks(self.session, events, hide=hide)
        for fact in facts:
            await self.driver.queue.put(fact)
        await self.settled()

    async def settled(self) -> None:
        """Wait until the follower has reached the head."""
        follower = self.driver.state.follower
        for _ in range(3000):
            await asyncio.sleep(0.01)
            at_head = follower.tip == self.session.chain.head and not follower.walking
            if at_head and self.driver.queue.empty():
                return
        raise AssertionError("the follower does not reach the head")

    async def audit(self) -> None:
        await self.driver.resync()
        await self.settled()
        ours, chain = self.driver.state.follower.registry, self.session.chain
        theirs = chain.registry()
        for token in ours.nodes.keys() | theirs.nodes.keys():
            assert not contradicts(ours, TokenState(token, theirs.get(token)))


async def audited(test: Callable[[Audited], Awaitable[None]], kind: Kind = NUMBER) -> None:
    """Run a test with a driver that follows a new chain."""
    chain = ScriptedChain()
    chain.mine(grant(1), grant(2))
    identity = replace(IDENTITY, genesis_hash=chain.blocks[0].hash)
    session, clock = Hiding(chain, kind.enumerates, kind.roots, identity=identity), LoopClock()
    members = members_of(
        PeerPolicy({}, None, 0),
        AddressPlan(IPv4Network("10.77.0.0/16"), unique_local_prefix(1, IDENTITY.contract)),
        clock,
        own_key=key(250),
    )
    state = ChainState(members, clock, 3600.0, asyncio.Queue(10_000), lambda event: None, left)
    with suppress(EndpointError), capture_logs():
        async with asyncio.TaskGroup() as group:
            driver = SessionDriver(state, session, group)
            await driver.begin()
            tasks = [group.create_task(driver.pump()), group.create_task(driver.drive())]
            under_test = Audited(session, driver)
            await under_test.settled()
            await test(under_test)
            for task in tasks:
                task.cancel()


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=200, deadline=None)
@given(STEPS)
@example([("mine", [Revoked(99)]), ("hidden reorg", [grant(3, 1)])])
def test_an_audit_finds_what_a_full_reading_would_find(
    kind: Kind, steps: list[tuple[str, list[RegistryEvent]]]
) -> None:
    async def test(under_test: Audited) -> None:
        # A root needs two full readings before it repeats them.
        for step, events in [*[("audit", [])] * 2, *steps, ("audit", [])]:
            await under_test.step(step, events)

    simulate(audited(test, kind))


def reads(session: Hiding) -> list[str]:
    """Return the calls for the contract's state since the last call of this function."""
    wanted = ("revision", "read_all", "events", "read_tokens", "finalized")
    found = [call for call in session.calls if call in wanted]
    session.calls.clear()
    return found


def test_an_unchanged_registry_is_read_once_and_then_by_its_revision() -> None:
    async def test(under_test: Audited) -> None:
        reads(under_test.session)
        await under_test.audit()
        assert reads(under_test.session) == ["revision", "read_all", "finalized"]
        for _ in range(REPEATS):
            await under_test.step("mine", [])
            await under_test.audit()
            assert reads(under_test.session) == ["revision"]
        await under_test.audit()
        assert reads(under_test.session) == ["revision", "read_all", "finalized"], "after the last repetition"

    simulate(audited(test))


@pytest.mark.parametrize("kind", [FIRST_VERSION, DEPLOYED])
def test_without_a_revision_it_is_read_twice_and_then_by_its_root(kind: Kind) -> None:
    async def test(under_test: Audited) -> None:
        session = under_test.session
        session.final = FIRST  # no event waits for finality
        reads(session)
        for _ in range(2):
            await under_test.audit()
            assert reads(session) == FULL[kind]
        for _ in range(REPEATS):
            await under_test.step("mine", [])
            await under_test.audit()
            assert reads(session) == ["revision"]
        for full in (True, False, False):
            await under_test.audit()
            assert reads(session) == (FULL[kind] if full else ["revision"]), "the 120th, and the next ones"

    simulate(audited(test, kind))


@pytest.mark.parametrize("hidden", [Revoked(1), grant(3)])
def test_a_change_without_a_log_is_found_by_the_next_root(hidden: RegistryEvent) -> None:
    async def test(under_test: Audited) -> None:
        for _ in range(3):
            await under_test.audit()
        for _ in range(SAFE_DEPTH):  # the log is far above the last one that was read
            await under_test.step("mine", [])
        await under_test.step("hide", [hidden])
        for _ in range(SAFE_DEPTH):
            await under_test.step("mine", [])
        before = under_test.driver.state.follower.registry
        await under_test.audit()
        assert under_test.driver.state.follower.registry != before

    simulate(audited(test, DEPLOYED))


@pytest.mark.parametrize(("delayed", "audits"), [(1, 2), (2, 2 + REPEATS + 1)])
def test_logs_that_come_late_are_found_by_the_next_full_reading(delayed: int, audits: int) -> None:
    assert REPEATS > SAFE_DEPTH, "the logs are then far below the tip"

    async def test(under_test: Audited) -> None:
        driver = under_test.driver
        for _ in range(3):
            await under_test.audit()
        under_test.session.delayed = delayed
        await under_test.step("hide", [grant(3)])
        for _ in range(audits):
            assert 3 not in driver.state.follower.registry.nodes, "the logs are late"
            await driver.resync()
            await under_test.step("mine", [])
        assert 3 in driver.state.follower.registry.nodes

    simulate(audited(test, DEPLOYED))


def test_a_repetition_in_a_quorum_moves_no_logs_out_of_reach() -> None:
    async def test(under_test: Audited) -> None:
        state, verifier = under_test.driver.state, FollowedVerifier(under_test.driver)
        follower = state.follower
        tokens = tuple(follower.registry.nodes)
        assert follower.tip is not None
        reply = await verifier.query(Question(follower.tip, tokens, whole=True))
        assert reply.revision is not None
        read_at = follower.tip.number
        assert (reply.repeats, state.resynced_to) == (0, read_at)
        agreed = Agreement(reply.at, reply.revision, follower.registry, readings=2)
        await under_test.step("mine", [])
        reply = await verifier.query(Question(follower.tip, tokens, whole=True, agreed=agreed))
        assert (reply.repeats, state.resynced_to, follower.tip.number) == (1, read_at, read_at + 1)

    simulate(audited(test, DEPLOYED))


def test_a_change_and_its_reversal_have_the_same_root() -> None:
    async def test(under_test: Audited) -> None:
        under_test.session.final = FIRST
        for _ in range(3):
            await under_test.audit()
        await under_test.step("hide", [TagsUpdated(1, 1)])
        await under_test.step("hide", [TagsUpdated(1, 0)])
        reads(under_test.session)
        await under_test.audit()  # compares our registry with the contract's state
        assert reads(under_test.session) == ["revision"]

    simulate(audited(test, DEPLOYED))


def test_an_equal_state_on_another_fork_has_the_same_root() -> None:
    async def test(under_test: Audited) -> None:
        under_test.session.final = FIRST
        await under_test.step("mine", [])
        for _ in range(3):
            await under_test.audit()
        await under_test.step("reorg", [])
        reads(under_test.session)
        await under_test.audit()
        assert reads(under_test.session) == ["revision"]

    simulate(audited(test, DEPLOYED))


def test_a_change_leads_to_one_full_reading_if_its_event_was_followed() -> None:
    async def test(under_test: Audited) -> None:
        await under_test.audit()
        await under_test.step("mine", [Revoked(1)])
        reads(under_test.session)
        await under_test.audit()
        assert "read_all" in reads(under_test.session)
        await under_test.audit()
        assert "read_all" not in reads(under_test.session)

    simulate(audited(test))


def test_a_hidden_event_leads_to_full_readings_until_one_agrees() -> None:
    async def test(under_test: Audited) -> None:
        await under_test.audit()
        await under_test.step("hide", [Revoked(1)])
        node = under_test.driver.state.follower.registry.nodes[1]
        assert node.active, "the event is hidden"
        reads(under_test.session)
        for full in (True, True, False):
            await under_test.audit()
            assert ("read_all" in reads(under_test.session)) == full

    simulate(audited(test))


def test_a_forged_event_leads_to_a_full_reading_that_corrects_it() -> None:
    async def test(under_test: Audited) -> None:
        await under_test.audit()
        await under_test.step("forge", [Revoked(1)])
        node = under_test.driver.state.follower.registry.nodes[1]
        assert not node.active, "the event is forged"
        reads(under_test.session)
        await under_test.audit()
        assert "read_all" in reads(under_test.session)

    simulate(audited(test))


def test_a_registry_that_changes_during_a_reading_does_not_agree_with_it() -> None:
    async def test(under_test: Audited) -> None:
        await under_test.step("hide", [Revoked(1)])
        session, driver = under_test.session, under_test.driver
        (late,) = session.chain.logs[session.chain.head.hash]

        async def during() -> None:
            await driver.queue.put(late)
            await under_test.settled()

        session.during = during
        await under_test.audit()
        # The reading equals the registry of its end. That of its beginning was not compared.
        assert driver._agreement is None

    simulate(audited(test))


def test_the_other_fork_is_read_even_if_its_revision_is_the_same() -> None:
    async def test(under_test: Audited) -> None:
        # A change of something else, such as the policy: it changes the revision, and not our
        # registry, which is therefore the same after the reorg.
        await under_test.step("mine", [ELSE])
        await under_test.audit()
        session = under_test.session
        before = await session.revision(session.chain.head)
        session.chain.rewind(1)
        for fact in blocks(session, [Revoked(2)], [], hide=True):
            await under_test.driver.queue.put(fact)
        await under_test.settled()
        assert await session.revision(session.chain.head) == before
        reads(session)
        await under_test.audit()
        assert "read_all" in reads(session)

    simulate(audited(test))
