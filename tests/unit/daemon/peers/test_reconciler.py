"""Repairs that fail, and repairs beside events."""

import asyncio

import pytest
from tests.scripted import grant
from tests.unit.daemon.conftest import Bench, eventually

from dstack_vpn.core.chain.events import Revoked
from dstack_vpn.core.model import DeviceState
from dstack_vpn.errors import DeviceError


async def test_a_repair_that_failed_is_tried_again_before_the_audit(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dstack_vpn.daemon.peers.reconciler.RETRY", 0.05, raising=False)
    bench.chain.mine(grant(1))
    async with bench.running() as node:
        await eventually(lambda: bench.link.device is not None and bench.tokens() == {1})
        await eventually(
            lambda: node.reporter.collect().device.problem is None and node.reconciler.compared_at
        )
        device, apply, failures = bench.device, bench.device.apply, 3

        async def failing(changes: object) -> None:
            nonlocal failures
            if failures:
                failures -= 1
                raise DeviceError("out of memory")
            await apply(changes)  # type: ignore[arg-type]  # passed through unchanged

        monkeypatch.setattr(type(device), "apply", lambda _, changes: failing(changes))
        bench.source.tell(bench.chain.mine(Revoked(1)))
        await eventually(lambda: bench.tokens() == set())


async def test_a_renewal_whose_reading_fails_leaves_no_device_without_peers(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Our own address comes, so the peers are removed and set again; the device is read between."""
    bench.chain.mine(grant(1))
    async with bench.running() as node:
        await eventually(lambda: node.reconciler.compared_at and bench.tokens() == {1})
        device, read, failures = bench.device, bench.device.read, 1

        async def failing() -> DeviceState:
            nonlocal failures
            if failures:
                failures -= 1
                raise DeviceError("the kernel was interrupted")
            return await read()

        monkeypatch.setattr(type(device), "read", lambda _: failing())
        await node.reconciler.renew()
        assert bench.tokens() == set()
        await eventually(lambda: bench.tokens() == {1})
        await eventually(lambda: node.reporter.collect().device.problem is None)


async def test_a_reading_from_before_an_event_does_not_undo_or_repeat_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.chain.mine(grant(1))
    async with bench.running() as node:
        await eventually(lambda: node.reconciler.compared_at and bench.tokens() == {1})
        device, read, go_on = bench.device, bench.device.read, asyncio.Event()

        async def slow() -> DeviceState:
            state = await read()
            await go_on.wait()
            return state

        monkeypatch.setattr(type(device), "read", lambda _: slow())
        async with asyncio.TaskGroup() as group:
            repair = group.create_task(node.reconciler.repair())
            applied = node.reconciler.executor.applied
            bench.source.tell(bench.chain.mine(Revoked(1), grant(2)))
            await eventually(lambda: bench.tokens() == {2})
            go_on.set()
            assert await repair
        assert node.reconciler.executor.applied == applied + 2
        assert len(node.reconciler.executor.present) == 1
        assert bench.tokens() == {2}
