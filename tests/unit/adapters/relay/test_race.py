"""Races of connection attempts."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from dstack_vpn.adapters.relay.race import race
from dstack_vpn.errors import RelayError


def after(seconds: float, result: str | None, begun: list[str]) -> Callable[[], Awaitable[str]]:
    """Return an attempt that ends after these seconds. None is a failure."""

    async def attempt() -> str:
        begun.append(str(result))
        await asyncio.sleep(seconds)
        if result is None:
            raise RelayError("refused")
        return result

    return attempt


async def test_the_first_to_answer_wins_and_the_others_are_given_up() -> None:
    begun: list[str] = []
    late: list[str] = []
    attempts = [after(5, "slow", begun), after(0, "quick", begun), after(0, "unneeded", begun)]
    assert await race(attempts, 0.02, late.append) == (1, "quick")
    assert begun == ["slow", "quick"]


async def test_a_failure_begins_the_next_attempt_at_once() -> None:
    begun: list[str] = []
    attempts = [after(0, None, begun), after(0, "second", begun)]
    async with asyncio.timeout(5):
        assert await race(attempts, 60, lambda _: None) == (1, "second")


async def test_where_all_fail_the_reason_is_told() -> None:
    with pytest.raises(RelayError, match="refused"):
        await race([after(0, None, []), after(0, None, [])], 0.01, lambda _: None)
