"""The registry and its timeline: each change has an inverse, and arrival order is irrelevant."""

from dataclasses import replace
from random import Random

from hypothesis import given
from hypothesis import strategies as st
from tests.property.strategies import contract_readings, contracts, events, logs, nodes, positions

from dstack_vpn.core.chain.contract import ContractState, Policy
from dstack_vpn.core.chain.events import ContractRead, LoggedEvent, PolicyRead, RegistryEvent, TokenState
from dstack_vpn.core.chain.history import EventHistory, observed_at
from dstack_vpn.core.chain.node import Node
from dstack_vpn.core.chain.registry import Registry, apply, apply_all, contradicts, revert
from dstack_vpn.core.model import Position

histories = st.lists(st.tuples(positions, events), max_size=12)


def indexes(state: Registry) -> tuple[object, ...]:
    return state.by_key, state.by_node_id, state.by_owner


def fold(log: list[LoggedEvent]) -> Registry:
    return apply_all(Registry(), [(Position(x.block_number, x.log_index), x.event) for x in log])[0]


@given(histories, positions, events)
def test_revert_undoes_apply(
    history: list[tuple[Position, RegistryEvent]], at: Position, event: RegistryEvent
) -> None:
    state, _ = apply_all(Registry(), history)
    after, change = apply(state, event, at)
    before = revert(after, change)
    assert before == state
    assert indexes(before) == indexes(state)


@given(histories)
def test_indexes_are_what_a_scan_finds(history: list[tuple[Position, RegistryEvent]]) -> None:
    state, changes = apply_all(Registry(), history)
    assert indexes(state) == indexes(Registry.of(state.nodes.values(), state.contract))
    assert revert(state, *changes) == Registry()


@given(histories)
def test_one_by_one_is_all_at_once(history: list[tuple[Position, RegistryEvent]]) -> None:
    state = Registry()
    for at, event in history:
        state, _ = apply(state, event, at)
    assert state == apply_all(Registry(), history)[0]


@given(histories, nodes)
def test_what_was_observed_contradicts_nothing_any_more(
    history: list[tuple[Position, RegistryEvent]], node: Node
) -> None:
    state, _ = apply_all(Registry(), history)
    observed = TokenState(node.token_id, node)
    after, change = apply(state, observed, Position(99, 0))
    assert bool(change) == contradicts(state, observed)
    assert not contradicts(after, observed)


@given(histories, contract_readings)
def test_a_reading_of_the_contract_contradicts_nothing_any_more(
    history: list[tuple[Position, RegistryEvent]], reading: ContractRead | PolicyRead
) -> None:
    state, _ = apply_all(Registry(), history)
    after, change = apply(state, reading, Position(99, 0))
    assert bool(change) == contradicts(state, reading)
    assert not contradicts(after, reading)
    assert (after.nodes, indexes(after)) == (state.nodes, indexes(state))


@given(contracts, contracts)
def test_a_policys_text_and_position_stay_as_long_as_its_hash(old: ContractState, new: ContractState) -> None:
    known = old.policy and replace(old.policy, text="allow all")
    state = Registry.of([], replace(old, policy=known))
    after = apply(state, ContractRead(new), Position(99, 0))[0].contract.policy
    if known is not None and new.policy is not None and known.hash == new.policy.hash:
        assert after == known
    else:
        assert after == (new.policy and Policy(new.policy.hash, Position(99, 0)))


@given(logs, st.randoms(use_true_random=False))
def test_any_arrival_order_in_any_portions_gives_the_same_state(log: list[LoggedEvent], rng: Random) -> None:
    timeline = EventHistory()
    arrivals = [*log, *(event for event in log if rng.random() < 0.3)]
    rng.shuffle(arrivals)
    while arrivals:
        portion = rng.randint(1, len(arrivals))
        timeline.insert(arrivals[:portion])
        del arrivals[:portion]
    assert timeline.state == fold(log)
    assert list(timeline.events) == log


@given(logs, st.integers(0, 7), st.integers(0, 7))
def test_dropping_and_settling_leave_what_a_fold_gives(
    log: list[LoggedEvent], settled: int, kept: int
) -> None:
    timeline = EventHistory()
    timeline.insert(log)
    timeline.settle(settled)
    assert timeline.base == fold([x for x in log if x.block_number <= settled])
    assert timeline.state == fold(log)
    timeline.drop_above(kept, lambda _: False)
    assert timeline.state == fold([x for x in log if x.block_number <= max(settled, kept)])


@given(logs, contracts, contract_readings)
def test_the_newest_reading_of_the_contract_counts_whatever_was_read_before(
    log: list[LoggedEvent], state: ContractState, before: ContractRead | PolicyRead
) -> None:
    timeline = EventHistory()
    timeline.insert([*log, observed_at(9, "h9", before)])
    timeline.insert([observed_at(9, "h9", ContractRead(state))])
    assert not contradicts(timeline.state, ContractRead(state))


@given(logs, nodes)
def test_a_reading_after_a_block_holds_until_later_events(log: list[LoggedEvent], node: Node) -> None:
    timeline = EventHistory()
    timeline.insert(log)
    at = observed_at(3, "h3", TokenState(node.token_id, node))
    timeline.insert([at])
    early = [x for x in log if x.block_number <= 3]
    late = [x for x in log if x.block_number > 3]
    assert timeline.state == fold([*early, at, *late])


@given(logs)
def test_touched_names_every_token_that_differs(log: list[LoggedEvent]) -> None:
    timeline = EventHistory()
    timeline.insert(log)
    timeline.touched()
    before = timeline.state
    timeline.drop_above(2, lambda _: False)
    after, touched = timeline.state, timeline.touched()
    tokens = before.nodes.keys() | after.nodes.keys()
    assert {t for t in tokens if before.get(t) != after.get(t)} <= touched
