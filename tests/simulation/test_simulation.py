"""Some of the runs of `make adversaries`, and regressions that it found."""

from random import Random

import pytest
from tests.simulation.__main__ import run
from tests.simulation.chain import Block, Chain, after
from tests.simulation.endpoints import SimulatedEndpoint, SimulatedSession
from tests.simulation.loop import simulate

from dstack_vpn.core.access.replies import Question, Reply
from dstack_vpn.core.chain.agreement import Agreement
from dstack_vpn.core.chain.events import Revoked, TokenState
from dstack_vpn.core.model import BlockRef
from dstack_vpn.daemon.chain.verifiers import answer

RUNS = 120
AT_ONCE = 12


@pytest.mark.parametrize("first", range(0, RUNS, AT_ONCE))
def test_fewer_than_k_liars_break_no_promise_whatever_they_do_and_when(first: int) -> None:
    for seed in range(first, first + AT_ONCE):
        world = run(seed)
        assert not world.problems, f"seed {seed}"


def reply_of(chain: Chain, question: Question) -> Reply:
    """Return an honest endpoint's reply."""

    async def query() -> Reply:
        async with SimulatedEndpoint("e", chain, Random(1)).open() as session:
            return await answer(session, question)

    return simulate(query())


def test_an_endpoint_that_lacks_our_block_shows_everything_at_its_own_head() -> None:
    """Our block may be forged. An honest endpoint must still reply, from its own head."""
    chain = Chain(Random(1))
    ours = BlockRef(10**9, "made up", "?", 0)
    reply = reply_of(chain, Question(ours, (1, 2), whole=True, exact=True))
    assert (reply.hash, reply.at) == (None, chain.head.ref)
    assert {x.token_id for x in reply.observed} == set(chain.head.state.nodes)


def test_an_endpoint_whose_head_is_newer_shows_what_has_become_of_a_token() -> None:
    """The followed endpoint may stay at an old block, in which a revoked member is still active."""
    chain = Chain(Random(1))
    old = chain.head
    while (node := chain.head.state.get(1)) is not None and node.active:
        chain.mine(0.0)
    reply = reply_of(chain, Question(old.ref, (1,)))
    assert (reply.hash, reply.at) == (old.ref.hash, old.ref)
    (then,), (now,) = reply.observed, reply.later
    assert then.node is not None and then.node.active
    assert now.node is None or not now.node.active


def agreed_at(chain: Chain, at: Block, *, roots: bool = False) -> Question:
    """Return a resync's question at the head, after a full reading at another block that agreed."""
    revision, readings = (at.root, 2) if roots else (at.revision, 1)
    agreement = Agreement(at.ref, revision, at.state, readings=readings)
    return Question(chain.head.ref, tuple(at.state.nodes), whole=True, agreed=agreement)


def asked_by(chain: Chain, question: Question) -> tuple[Reply, bool]:
    """Return an honest endpoint's reply, and whether it read all tokens."""
    read = False

    class Counting(SimulatedSession):
        async def read_all(self, at: BlockRef) -> list[TokenState] | None:
            nonlocal read
            read = True
            return await super().read_all(at)

    async def query() -> Reply:
        roots = question.agreed is not None and question.agreed.is_root
        return await answer(Counting(SimulatedEndpoint("e", chain, Random(1), roots=roots)), question)

    return simulate(query()), read


def test_an_endpoint_with_the_same_revision_is_not_read_again() -> None:
    chain = Chain(Random(1))
    reading, before = chain.head, chain.head.ref
    chain._take(after(chain.head, None, "", chain.head.line), 0.0)
    reply, read = asked_by(chain, agreed_at(chain, reading))
    assert not read
    assert (reply.hash, reply.at, reply.revision, reply.repeats) == (
        *(chain.head.ref.hash, chain.head.ref),
        *(reading.revision, 1),
    )
    assert chain.head.ref != before
    assert {x.token_id: x.node for x in reply.observed} == reading.state.nodes


def test_an_endpoint_with_another_revision_is_read_again() -> None:
    chain = Chain(Random(1))
    reading = chain.head
    chain._take(after(chain.head, Revoked(1), "", chain.head.line), 0.0)
    reply, read = asked_by(chain, agreed_at(chain, reading))
    assert read
    assert (reply.revision, reply.repeats) == (reading.revision + 1, 0)
    assert {x.token_id: x.node for x in reply.observed} == chain.head.state.nodes


def test_an_endpoint_on_another_fork_with_the_same_revision_is_read_again() -> None:
    """The block of the reading is checked with the endpoint itself, not with our chain."""
    chain = Chain(Random(1))
    parent = chain.head
    reading = after(parent, Revoked(1), "", list(parent.line))
    other = after(parent, Revoked(2), "fork", parent.line)
    chain._take(after(other, None, "fork", parent.line), 0.0)
    assert reading.revision == chain.head.revision
    reply, read = asked_by(chain, agreed_at(chain, reading))
    assert read
    assert {x.token_id: x.node for x in reply.observed} == chain.head.state.nodes


def test_an_endpoint_with_the_same_root_is_not_read_again_even_on_another_fork() -> None:
    chain = Chain(Random(1))
    parent = chain.head
    reading = after(parent, None, "", list(parent.line))
    chain._take(after(parent, None, "fork", parent.line), 0.0)
    assert reading.ref.hash != chain.head.ref.hash
    reply, read = asked_by(chain, agreed_at(chain, reading, roots=True))
    assert not read
    assert (reply.at, reply.revision, reply.repeats) == (chain.head.ref, reading.root, 1)
    assert {x.token_id: x.node for x in reply.observed} == chain.head.state.nodes


def test_an_endpoint_with_another_root_is_read_again() -> None:
    chain = Chain(Random(1))
    parent = chain.head
    reading = after(parent, Revoked(1), "", list(parent.line))
    chain._take(after(parent, Revoked(2), "fork", parent.line), 0.0)
    reply, read = asked_by(chain, agreed_at(chain, reading, roots=True))
    assert read
    assert (reply.revision, reply.repeats) == (chain.head.root, 0)
    assert {x.token_id: x.node for x in reply.observed} == chain.head.state.nodes
