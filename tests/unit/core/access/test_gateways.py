"""The gateway of each network, as gateways come and go."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstack_vpn.core.access.gateways import GRACE, RETURN, GatewayChoice
from dstack_vpn.core.access.roles import Standing

NET = "10.9.0.0/24"
A, U, S = Standing.ALIVE, Standing.UNJUDGED, Standing.SILENT


def used(choice: GatewayChoice, standings: Mapping[int, Standing], now: float) -> int | None:
    choice.observe(standings, now)
    choice.choose({NET: tuple(standings)} if standings else {}, now)
    return choice.used.get(NET)


@pytest.mark.parametrize(
    "steps",
    [
        # It moves at once, and returns when the lower one has been alive for a while.
        [(0, {1: U, 2: U}, 1), (1, {1: A, 2: A}, 1), (2, {1: S, 2: A}, 2), (3, {1: A, 2: A}, 2)],
        [(0, {1: S, 2: A}, 2), (3, {1: A, 2: A}, 2), (32.9, {1: A, 2: A}, 2), (33, {1: A, 2: A}, 1)],
        # One that comes and goes does not take it back.
        [(1, {1: S, 2: A}, 2), (20, {1: A, 2: A}, 2), (40, {1: S, 2: A}, 2), (41, {1: A, 2: A}, 2)],
        [(40, {1: S, 2: A}, 2), (41, {1: A, 2: A}, 2), (60, {1: A, 2: A}, 2), (71, {1: A, 2: A}, 1)],
        # While the lower one is on trial, the other one fails.
        [(0, {1: S, 2: A}, 2), (1, {1: A, 2: A}, 2), (2, {1: A, 2: S}, 1)],
        # All are silent: it stays, and then the first one that comes back has it.
        [(0, {1: A, 2: A}, 1), (1, {1: S, 2: S}, 1), (2, {1: S, 2: A}, 2), (3, {1: S, 2: S}, 2)],
        # Nothing was heard of the first one.
        [(0, {1: U, 2: A}, 1), (GRACE - 0.1, {1: U, 2: A}, 1), (GRACE, {1: U, 2: A}, 2)],
        [(0, {1: U, 2: U}, 1), (GRACE + 1, {1: U, 2: U}, 1), (GRACE + 2, {1: S, 2: U}, 2)],
        # A gateway loses its access.
        [(0, {1: A, 2: A, 3: A}, 1), (1, {2: A, 3: A}, 2), (2, {3: S}, 3), (3, {}, None), (4, {2: A}, 2)],
        # A gateway with a lower id is new.
        [(0, {2: A}, 2), (1, {1: U, 2: A}, 2), (2, {1: A, 2: A}, 2), (2 + RETURN, {1: A, 2: A}, 1)],
    ],
)
def test_the_gateway_in_use(steps: list[tuple[float, dict[int, Standing], int | None]]) -> None:
    choice = GatewayChoice()
    assert [used(choice, standings, now) for now, standings, _ in steps] == [each for *_, each in steps]


states = st.dictionaries(st.integers(1, 4), st.sampled_from([A, U, S]), max_size=4)
histories = st.lists(st.tuples(st.floats(0.1, 50), states), min_size=1, max_size=25)


def obvious(history: list[tuple[float, dict[int, Standing]]]) -> list[int | None]:
    """Return the gateway in use after each step, by the table in the module's docstring."""
    found: list[int | None] = []
    now, current = 0.0, None
    since: dict[int, tuple[Standing, float]] = {}
    for pause, standings in history:
        now += pause
        since = {
            t: since[t] if t in since and since[t][0] is state else (state, now)
            for t, state in standings.items()
        }
        age = {t: now - began for t, (_, began) in since.items()}
        fails = {t for t, s in standings.items() if s is S or (s is U and age[t] >= GRACE)}
        fine = sorted(standings.keys() - fails)
        alive = sorted(t for t, s in standings.items() if s is A)
        unjudged = sorted(t for t, s in standings.items() if s is U)
        if not standings:
            current = None
        elif current not in standings:
            current = fine[0] if fine else min(standings)
        elif current not in fails:
            steady = [t for t in alive if t < current and age[t] >= RETURN]
            current = steady[0] if steady else current
        elif alive:
            current = alive[0]
        elif standings[current] is S and unjudged:
            current = unjudged[0]
        found.append(current)
    return found


@given(histories)
def test_the_choice_is_that_of_the_table(history: list[tuple[float, dict[int, Standing]]]) -> None:
    choice, now, found = GatewayChoice(), 0.0, []
    for pause, standings in history:
        now += pause
        found.append(used(choice, standings, now))
    assert found == obvious(history)


@given(st.lists(st.tuples(st.floats(0.1, 5), st.sampled_from([A, S])), max_size=60))
def test_a_gateway_that_comes_and_goes_moves_a_network_rarely(history: list[tuple[float, Standing]]) -> None:
    choice, now, before, moves = GatewayChoice(), 0.0, None, 0
    for pause, standing in history:
        now += pause
        found = used(choice, {1: standing, 2: A}, now)
        moves += before not in {None, found}
        before = found
    assert moves <= 2 * (now / RETURN) + 1
