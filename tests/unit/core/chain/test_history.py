"""Late, repeated and dropped events; `tests/property/test_registry.py` covers every order."""

from tests.scripted import grant

from dstack_vpn.core.chain.events import LoggedEvent, RegistryEvent, Revoked, TokenState
from dstack_vpn.core.chain.history import EventHistory, observed_at, position_of


def logged(block: int, index: int, event: RegistryEvent) -> LoggedEvent:
    return LoggedEvent(block, f"h{block}", index, event)


ONE, TWO, GONE = logged(1, 0, grant(1)), logged(2, 0, grant(2)), logged(3, 0, Revoked(1))


def filled() -> EventHistory:
    history = EventHistory()
    history.insert([ONE, TWO, GONE])
    history.touched()
    return history


def test_an_event_that_is_late_takes_its_place_and_one_that_comes_again_is_ignored() -> None:
    history = EventHistory()
    assert history.insert([GONE, TWO]) == [TWO, GONE]
    assert history.insert([TWO, ONE]) == [ONE]
    assert history.events == (ONE, TWO, GONE)
    assert history.state == filled().state
    assert history.insert([ONE, TWO, GONE]) == []


def test_what_is_dropped_is_undone_and_named_as_touched() -> None:
    history = filled()
    assert history.drop_above(1, keep=lambda each: each is TWO) == [GONE]
    assert history.events == (ONE, TWO)
    node = history.state.get(1)
    assert node is not None
    assert node.active
    assert 1 in history.touched()
    assert history.touched() == frozenset()


def test_dropping_nothing_touches_nothing() -> None:
    history = filled()
    assert history.drop_above(0, keep=lambda _: True) == []
    assert history.touched() == frozenset()


def test_what_is_settled_is_in_the_base_and_stays() -> None:
    history = filled()
    before = history.state
    history.settle(2)
    assert history.events == (GONE,)
    assert history.state == before
    assert history.drop_above(0, keep=lambda _: False) == [GONE]
    assert history.state == history.base


def test_a_state_that_was_read_comes_after_all_logs_of_its_block() -> None:
    read = [observed_at(1, "h1", TokenState(token, None)) for token in (2, 1)]
    late = logged(1, 10_000, grant(1))
    assert sorted([*read, late], key=position_of) == [late, read[1], read[0]]
