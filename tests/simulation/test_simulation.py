"""Some of the runs of `make adversaries`, and regressions that it found."""

from random import Random

import pytest
from tests.simulation.__main__ import run
from tests.simulation.chain import Chain
from tests.simulation.endpoints import SimulatedEndpoint
from tests.simulation.loop import simulate

from dstack_vpn.core.access.replies import Question, Reply
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
