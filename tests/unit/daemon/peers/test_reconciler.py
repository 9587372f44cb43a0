"""Repairs that fail."""

import pytest
from tests.scripted import grant
from tests.unit.daemon.conftest import Bench, eventually

from dstack_vpn.core.chain.events import Revoked
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
