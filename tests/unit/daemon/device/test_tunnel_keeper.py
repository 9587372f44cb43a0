"""A link that fails for a while."""

import pytest
from tests.unit.daemon.conftest import OWN, Bench, eventually

from dstack_vpn.core.chain.events import Granted
from dstack_vpn.core.wireguard.x25519 import derive
from dstack_vpn.errors import DeviceError


async def test_a_link_that_is_well_again_is_so_in_health_before_the_audit(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dstack_vpn.daemon.device.tunnel.CHECK", 0.05)
    bench.chain.mine(Granted(0, "0xme", "node-0", derive(OWN)))
    async with bench.running() as node:
        await eventually(lambda: bench.component("device") == "ok: " and bench.link.settings)
        is_up, failures = bench.link.is_up, 1

        async def failing() -> bool:
            nonlocal failures
            if failures:
                failures -= 1
                raise DeviceError("no answer from the kernel")
            return await is_up()

        await eventually(
            lambda: (
                node.reconciler.compared_at and node.tunnel.clock.now() - node.reconciler.compared_at > 0.7
            )
        )
        monkeypatch.setattr(bench.link, "is_up", failing)
        await eventually(lambda: "no answer" in bench.component("device"))
        await eventually(lambda: bench.component("device") == "ok: ")
