import asyncio

import pytest

from dstack_vpn.adapters.clock import SystemClock
from dstack_vpn.core.limits.time_share import TimeShare
from dstack_vpn.daemon.peers import debounce
from dstack_vpn.daemon.peers.debounce import Debounce


async def test_a_comparison_waits_for_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debounce, "QUIET", 0.05)
    clock = SystemClock()
    made, last = Debounce(clock), clock.monotonic()
    async with asyncio.TaskGroup() as group:
        due = group.create_task(made.due(None))
        for _ in range(4):
            if due.done():
                break  # this process stood still for longer than that
            made.request()
            last = clock.monotonic()
            await asyncio.sleep(0.02)
        await due
        assert clock.monotonic() - last >= 0.05


@pytest.mark.parametrize("cost", [0.0, 0.001])
async def test_events_without_end_put_it_off_for_a_while_only(
    monkeypatch: pytest.MonkeyPatch, cost: float
) -> None:
    monkeypatch.setattr(debounce, "LIMIT", TimeShare(200, 0.05))
    clock = SystemClock()
    made = Debounce(clock, cost)
    began = clock.monotonic()
    async with asyncio.TaskGroup() as group:
        due = group.create_task(made.due(None))
        while not due.done():
            made.request()
            await asyncio.sleep(0.01)
    assert clock.monotonic() - began >= max(0.05, 200 * cost)


async def test_without_a_request_it_is_due_after_the_pause() -> None:
    made = Debounce(SystemClock())
    await made.due(0.01)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(made.due(None), 0.05)


async def test_a_request_is_answered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debounce, "QUIET", 0.0)
    made = Debounce(SystemClock())
    made.request()
    await made.due(None)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(made.due(None), 0.05)


async def test_a_device_that_takes_long_to_read_is_read_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debounce, "QUIET", 0.0)
    monkeypatch.setattr(debounce, "SHARE", TimeShare(10))
    clock = SystemClock()
    made = Debounce(clock)
    made.took(0.02)
    ended = clock.monotonic()
    made.request()
    await made.due(None)
    assert clock.monotonic() - ended >= 10 * 0.02


async def test_a_device_that_stood_still_is_compared_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debounce, "QUIET", 0.0)
    made = Debounce(SystemClock())
    made.took(2.0)
    made.request()
    async with asyncio.timeout(1.0):
        await made.due(None)
