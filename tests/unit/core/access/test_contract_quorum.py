"""Fewer than k dishonest endpoints permit nothing by a policy or a name of a tag."""

from dataclasses import dataclass, field, replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dstack_vpn.core.access.contract_quorum import ContractQuorum, Rules
from dstack_vpn.core.access.replies import Comparison
from dstack_vpn.core.chain.contract import ContractState, Policy

A, B, FORGED = (Policy("0x" + digit * 64, text=digit) for digit in "abf")
WEB = ContractState(is_read=True, tag_names=("web",), policy=A)
DB = replace(WEB, tag_names=("web", "db"), policy=B)


def shown(name: str, state: ContractState, height: int = 9, *, ours: bool = True) -> Comparison:
    return Comparison(name, height, frozenset(), {}, ours, ours, state)


def confirmed(state: ContractState = WEB) -> ContractQuorum:
    """Return a quorum of 2 with one state confirmed at the height 9."""
    quorum = ContractQuorum(2)
    quorum.update(state)
    assert quorum.rules(state) == Rules(), "nothing counts before"
    assert quorum.due(9)
    assert quorum.judge(state, [shown("a", state), shown("b", state)], settles=True) == {}
    assert not quorum.due(9)
    assert quorum.rules(state) == Rules(state.tag_names, (state.policy,))
    return quorum


def test_a_state_counts_once_k_endpoints_have_shown_it() -> None:
    quorum = ContractQuorum(2)
    quorum.update(WEB)
    quorum.judge(WEB, [shown("a", WEB)], settles=True)
    assert (quorum.rules(WEB), quorum.due(9)) == (Rules(), True)
    assert quorum.confirms(WEB) is False
    assert confirmed().confirms(WEB) is True


def test_a_new_policy_restricts_at_once_and_permits_by_a_quorum() -> None:
    quorum = confirmed()
    quorum.update(DB)
    assert quorum.rules(DB) == Rules(("web",), (A, B)), "both must permit, and the name waits"
    assert quorum.due(10)
    replies = [shown("a", DB, 10), shown("b", DB, 10)]
    quorum.replied(replies)
    quorum.judge(DB, replies, settles=True)
    assert quorum.rules(DB) == Rules(("web", "db"), (B,))


def test_a_policy_that_the_followed_endpoint_takes_back_stays_until_k_have_replied() -> None:
    quorum, new, newer = confirmed(), replace(WEB, policy=B), replace(WEB, policy=FORGED)
    quorum.update(new)
    quorum.judge(new, [shown("b", new, 10)], settles=True)
    quorum.update(WEB)  # another endpoint is followed now
    assert quorum.rules(WEB).policies == (A, B)
    for reply, policies in (
        (shown("a", WEB, 10), (A, B)),
        (shown("b", new, 10), (A, B)),
        (shown("b", newer, 11), (A, FORGED)),
    ):
        quorum.replied([reply])
        quorum.judge(WEB, [reply], settles=True)
        assert quorum.rules(WEB).policies == policies


def test_a_reply_to_an_older_question_is_compared_with_the_present_state() -> None:
    quorum, new = confirmed(), replace(WEB, policy=B)
    quorum.update(WEB)
    quorum.judge(new, [shown("b", new, 10)], settles=False)
    assert quorum.rules(WEB).policies == (A, B)


def test_the_removal_of_a_policy_waits_for_a_quorum() -> None:
    quorum, none = confirmed(), replace(WEB, policy=None)
    quorum.update(none)
    assert quorum.rules(none).policies == (A, None)


def test_another_endpoints_policy_restricts_until_it_shows_ours_again() -> None:
    quorum = confirmed()
    assert quorum.judge(WEB, [shown("a", WEB, 10), shown("c", DB, 10)], settles=True) == {}
    assert quorum.rules(WEB) == Rules(("web",), (A, B))
    assert quorum.due(10) and not quorum.due(9)
    quorum.judge(WEB, [shown("c", WEB, 9)], settles=True)
    assert quorum.rules(WEB).policies == (A, B), "an older block proves nothing"
    quorum.judge(WEB, [shown("c", WEB, 10)], settles=True)
    assert quorum.rules(WEB).policies == (A,)


def test_a_claim_is_not_replaced_by_one_at_an_older_block() -> None:
    quorum, older = confirmed(), replace(WEB, policy=FORGED)
    quorum.judge(WEB, [shown("b", DB, 12)], settles=True)
    quorum.judge(WEB, [shown("b", older, 11)], settles=True)
    assert quorum.rules(WEB).policies == (A, B)
    quorum.judge(WEB, [shown("b", older, 12)], settles=True)
    assert quorum.rules(WEB).policies == (A, FORGED)


def test_a_quarantined_endpoints_policy_does_not_count() -> None:
    quorum = confirmed()
    quorum.judge(WEB, [shown("c", DB, 10)], settles=True)
    quorum.discard("c")
    assert quorum.rules(WEB) == Rules(("web",), (A,))


def test_two_names_for_one_bit_are_no_name() -> None:
    quorum = confirmed()
    quorum.judge(WEB, [shown("c", replace(WEB, tag_names=("gateway",)), 10)], settles=True)
    assert quorum.rules(WEB).tag_names == ("",)


@pytest.mark.parametrize("liar", ["a", "c"])
def test_the_minority_is_contradicted(liar: str) -> None:
    quorum = confirmed()
    sides = [shown(name, DB if name == liar else WEB, 10) for name in "abc"]
    ours = DB if liar == "a" else WEB
    quorum.update(ours)
    assert quorum.judge(ours, sides, settles=True).keys() == {liar}


def test_two_against_two_contradict_no_endpoint_and_all_restrict() -> None:
    quorum = confirmed()
    sides = [shown(name, DB if name in "cd" else WEB, 10) for name in "abcd"]
    assert quorum.judge(WEB, sides, settles=True) == {}
    assert quorum.rules(WEB).policies == (A, B)


def test_a_comparison_with_a_former_state_confirms_and_accuses_nothing() -> None:
    quorum = confirmed()
    quorum.update(DB)
    sides = [shown("a", DB, 10), shown("b", DB, 10), shown("c", WEB, 10)]
    assert quorum.judge(DB, sides, settles=False) == {}
    assert quorum.rules(DB).policies == (A, B)


def test_an_endpoint_that_lags_does_not_deny_what_is_new() -> None:
    quorum = confirmed()
    quorum.judge(WEB, [shown("c", DB, 8, ours=False)], settles=True)
    assert quorum.rules(WEB).policies == (A,)
    quorum.judge(WEB, [shown("c", DB, 9, ours=False)], settles=True)
    assert quorum.rules(WEB).policies == (A, B), "another fork, but not an older block"


def test_a_contract_without_a_state_of_its_own_needs_no_quorum() -> None:
    quorum = ContractQuorum(2)
    quorum.update(ContractState())
    assert not quorum.due(9)
    assert quorum.judge(ContractState(), [shown("b", WEB)], settles=True) == {}
    assert quorum.rules(ContractState()) == Rules.of(ContractState()) == Rules()


def test_a_restart_remembers() -> None:
    quorum = ContractQuorum(2)
    quorum.remember(WEB, 9)
    quorum.update(WEB)
    assert (quorum.due(9), quorum.rules(WEB)) == (False, Rules(("web",), (A,)))


def test_a_text_that_is_read_later_is_used() -> None:
    bare = replace(WEB, policy=replace(A, text=None))
    quorum = confirmed(bare)
    quorum.update(WEB)
    assert quorum.rules(WEB).policies == (A,)


# -- any number of endpoints -----------------------------------------------------------------------

STATES = [WEB, DB, replace(WEB, policy=None), replace(WEB, tag_names=())]
FORGERIES = [replace(WEB, policy=FORGED), replace(DB, tag_names=("db", "web")), *STATES]


@dataclass
class World:
    random: Random
    needed: int
    honest: list[str]
    liars: list[str]
    history: list[ContractState] = field(default_factory=lambda: [WEB])
    accused: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.quorum = ContractQuorum(self.needed)
        self.leader = self.random.choice([*self.honest, *self.liars])
        self.ours = WEB

    def step(self) -> list[Comparison]:
        self.history.append(self.random.choice([*STATES, self.history[-1]]))
        true = self.history[-1]
        self.ours = true if self.leader in self.honest else self.random.choice([*FORGERIES, self.ours])
        self.quorum.update(self.ours)
        names = [name for name in (*self.honest, *self.liars) if name not in self.accused]
        found = [self.reply(name) for name in self.random.sample(names, len(names))]
        for count in range(1, len(found) + 1):
            heard = [x for x in found[:count] if x.endpoint not in self.accused]
            for name in self.quorum.judge(self.ours, heard, settles=True):
                self.accused.add(name)
                self.quorum.discard(name)
        return found

    def reply(self, name: str) -> Comparison:
        tip = len(self.history) - 1
        if name == self.leader:
            return shown(name, self.ours, tip)
        if name in self.honest:
            height = self.random.randint(0, tip) if self.random.random() < 0.2 else tip
            return shown(name, self.history[height], height, ours=height == tip)
        state = self.random.choice([*FORGERIES, self.ours])
        return shown(name, state, self.random.choice([tip, tip + 3]), ours=self.random.random() < 0.8)


@settings(max_examples=300)
@given(st.integers(0, 2**32), st.integers(2, 3), st.integers(1, 4), st.integers(0, 2), st.integers(1, 8))
def test_fewer_than_k_liars_permit_nothing(
    seed: int, needed: int, honest: int, liars: int, rounds: int
) -> None:
    crooks = [f"liar{i}" for i in range(min(liars, needed - 1))]
    world = World(Random(seed), needed, [f"honest{i}" for i in range(honest)], crooks)
    for _ in range(rounds):
        found = world.step()
        assert not world.accused & set(world.honest), "no honest endpoint is accused"
        rules = world.quorum.rules(world.ours)
        real = {state.policy for state in world.history}
        assert not rules.policies or real & set(rules.policies), "one of them was a true policy"
        for index, name in enumerate(rules.tag_names):
            true = {state.tag_names[index] for state in world.history if index < len(state.tag_names)}
            assert name in {"", *true}
        for reply in found:
            if rules.policies and reply.endpoint in world.honest and reply.height == len(world.history) - 1:
                assert reply.contract is not None
                assert reply.contract.policy in rules.policies, "the policy that an honest endpoint shows"
