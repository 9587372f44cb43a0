"""The relay's small parts: races, limits, and log lines that don't repeat themselves."""

import asyncio
import errno
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import structlog
from structlog.testing import LogCapture
from tests.unit.adapters.relay.conftest import Pair, running

from dstack_vpn.adapters.rate_limited_logger import RateLimitedLogger
from dstack_vpn.adapters.relay import tcp2udp
from dstack_vpn.adapters.relay.race import race
from dstack_vpn.errors import RelayError


def after(seconds: float, result: str | None, begun: list[str]) -> Callable[[], Awaitable[str]]:
    """An attempt that ends so late, with a result or (None) a failure."""

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


def test_what_happens_again_and_again_is_logged_once_with_its_count(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    capture = LogCapture()
    log: Any = structlog.wrap_logger(structlog.PrintLogger(), processors=[capture])
    quiet = RateLimitedLogger(log)
    for _ in range(1000):
        quiet.warning("relay.limit", source="192.0.2.1")
    assert len(capture.entries) == 1
    now[0] += 3600
    quiet.warning("relay.limit", source="192.0.2.1")
    assert len(capture.entries) == 2
    assert 999 in capture.entries[1].values()


class Exhausted:
    """A listener in a process that has no descriptors left."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener, self.calls = listener, 0

    def accept(self) -> None:
        self.calls += 1
        raise OSError(errno.EMFILE, "Too many open files")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._listener, name)


async def test_without_descriptors_the_listener_is_left_alone_for_a_while(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tcp2udp, "TICK", 0.05)
    listener = pair.far._listener
    exhausted = Exhausted(listener)
    monkeypatch.setattr(pair.far, "_listener", exhausted)
    async with running(pair.near, pair.far):
        pair.source.send(b"wait for me")
        async with asyncio.timeout(5):
            while exhausted.calls < 3:  # noqa: ASYNC110 - there is no event for it
                await asyncio.sleep(0.001)
        calls, began = exhausted.calls, time.monotonic()
        await asyncio.sleep(0.2)
        assert exhausted.calls - calls <= (time.monotonic() - began) / 0.05 + 1
        monkeypatch.setattr(pair.far, "_listener", listener)
        assert await pair.take(pair.sink, 1) == [b"wait for me"]
