"""The last known members while the chain cannot be reached."""

from dataclasses import replace

import pytest
from tests.scripted import grant
from tests.unit.daemon.conftest import Bench, eventually

from dstack_vpn.adapters.clock import SystemClock
from dstack_vpn.core.access.staleness import StalePolicy
from dstack_vpn.daemon import daemon as node_module

POLICIES = pytest.mark.parametrize("policy", list(StalePolicy))


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_module, "TICK", 0.02)


def last_confirmed(bench: Bench, ago: float) -> None:
    bench.node.members.staleness.since = SystemClock().monotonic() - ago


@POLICIES
async def test_the_chain_is_gone_for_too_long(bench: Bench, policy: StalePolicy) -> None:
    bench.chain.mine(*(grant(token) for token in range(1, 9)))
    everybody = set(range(1, 9))
    bench.staleness, bench.policy_when_stale = 1000, policy
    async with bench.running() as node:
        await eventually(lambda: bench.tokens() == everybody)
        bench.source.fail()
        await eventually(lambda: node.chain.state.problem is not None)
        last_confirmed(bench, 600)
        await eventually(lambda: bench.component("registry").startswith("warning"), "before it bites")
        assert "not confirmed by the chain for" in bench.component("registry")
        assert bench.tokens() == everybody
        last_confirmed(bench, 1001)
        await eventually(lambda: bench.component("registry").startswith("failed"))
        if policy is StalePolicy.KEEP:
            assert "the members of then are kept" in bench.component("registry")
            assert bench.tokens() == everybody
            assert bench.health().ready
        else:
            await eventually(lambda: not bench.tokens(), "nobody is left, and no brake holds that up")
            assert "no peers until it is" in bench.component("registry")
            assert not bench.health().ready
        bench.source.up = True
        await eventually(lambda: bench.tokens() == everybody and bench.component("registry") == "ok: ")


async def stored_long_ago(bench: Bench, seconds: float) -> None:
    """Store a confirmation of this age, and keep an interface with all of its peers."""
    bench.chain.mine(*(grant(token) for token in range(1, 9)))
    bench.keep_interface = True
    async with bench.running():
        await eventually(lambda: len(bench.tokens()) == 8 and bench.store.saved)
    assert bench.store.saved is not None
    assert bench.store.saved.synced is not None
    bench.store.saved = replace(bench.store.saved, synced=SystemClock().now() - seconds)
    bench.source.up = False


async def test_a_restart_from_a_disk_that_is_not_too_old(bench: Bench) -> None:
    await stored_long_ago(bench, 100)
    bench.link.device = None
    bench.staleness = 200
    async with bench.running():
        await eventually(lambda: len(bench.tokens()) == 8, "the members of then")
        assert bench.component("registry").startswith("warning: ")


@POLICIES
async def test_a_restart_from_a_disk_that_was_rolled_back(bench: Bench, policy: StalePolicy) -> None:
    """No member is restored; only `ISOLATE` also removes an adopted interface's peers."""
    await stored_long_ago(bench, 100)
    bench.staleness, bench.policy_when_stale = 50, policy
    async with bench.running() as node:
        await eventually(lambda: "last confirmed 100 s ago" in bench.component("registry"))
        assert not node.tunnel.members.membership.peers
        assert not bench.health().ready
        if policy is StalePolicy.ISOLATE:
            await eventually(lambda: not bench.tokens(), "the adopted peers are gone")
        else:
            await node.reconciler.repair()
            assert len(bench.tokens()) == 8
        bench.source.up = True
        await eventually(lambda: len(bench.tokens()) == 8 and bench.component("registry") == "ok: ")
