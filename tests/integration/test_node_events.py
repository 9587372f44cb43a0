"""The events of a node on a real dev chain: their order and their fields."""

from collections.abc import Callable, Iterator

import pytest
from prometheus_client.core import Metric
from tests.anvil import Anvil, key_of
from tests.integration.conftest import MakeRig
from tests.integration.support import Rig, eventually

from dstack_vpn.core.observe.event import Event
from dstack_vpn.core.observe.events import (
    EndpointLost,
    HealthChanged,
    PeerRemoved,
    PeerSet,
    Reorged,
    TokenChanged,
)
from dstack_vpn.wiring.event_metrics import EventMetrics
from dstack_vpn.wiring.view import NodeView

pytestmark = pytest.mark.anvil


def said(rig: Rig) -> list[Event]:
    return [entry.event for entry in rig.node.event_log.latest()]


def count(rig: Rig) -> Iterator[Metric]:
    metrics = EventMetrics()
    rig.node.event_log.subscribe(metrics.take)
    return metrics.collect()


async def until(rig: Rig, wanted: Callable[[Event], bool], what: str) -> Event:
    await eventually(lambda: any(map(wanted, said(rig))), what)
    return next(filter(wanted, said(rig)))


async def test_a_mint_a_revocation_and_a_reorg_are_told(anvil: Anvil, make_rig: MakeRig) -> None:
    rig = make_rig(anvil.ws, anvil.contract)
    async with rig.running():
        receipt = await anvil.mint(1)
        block = int(receipt["blockNumber"], 16)
        found = await until(rig, lambda h: isinstance(h, PeerSet), "the event of the mint")
        assert isinstance(found, PeerSet)
        assert (found.peer, found.token, found.node, found.added) == (key_of(1), 1, "node-1", True)
        assert found.latency is not None
        # The chain's event comes first, with its block.
        event = next(h for h in said(rig) if isinstance(h, TokenChanged))
        assert (event.event, event.token, event.node, event.block) == ("granted", 1, "node-1", block)
        assert said(rig).index(event) < said(rig).index(found)

        await anvil.revoke(1)
        gone = await until(rig, lambda h: isinstance(h, PeerRemoved), "the event of the revocation")
        assert isinstance(gone, PeerRemoved)
        assert (gone.token, gone.node, gone.reason) == (1, "node-1", "revoked")

        await anvil.reorg(1)
        reorg = await until(rig, lambda h: isinstance(h, Reorged), "the event of the reorg")
        assert isinstance(reorg, Reorged)
        assert (reorg.depth, reorg.dropped) == (1, 1)
        await until(rig, lambda h: isinstance(h, TokenChanged) and h.undone, "the event of the undone mint")
        await eventually(lambda: sum(isinstance(h, PeerSet) for h in said(rig)) == 2, "the peer is back")
        counted = {s.name: s.value for m in count(rig) for s in m.samples if not s.labels}
        assert counted["dstack_vpn_chain_reorg_depth_blocks_count"] == 1
        assert counted["dstack_vpn_event_to_peer_seconds_count"] >= 3


async def test_an_outage_is_told_with_the_health(anvil: Anvil, make_rig: MakeRig) -> None:
    rig = make_rig(anvil.ws, anvil.contract)
    async with rig.running():
        await until(
            rig,
            lambda h: isinstance(h, HealthChanged) and (h.component, h.status) == ("chain", "ok"),
            "the chain's component is ok",
        )
        await anvil.stop()
        await until(rig, lambda h: isinstance(h, EndpointLost), "the event of the lost endpoint")
        changed = await until(
            rig,
            lambda h: isinstance(h, HealthChanged) and h.component == "chain" and h.status == "failed",
            "the chain's component has failed",
        )
        assert isinstance(changed, HealthChanged)
        assert changed.before == "ok"
        since = next(c.since for c in rig.node.health.verdict().components if c.name == "chain")
        assert since is not None


async def test_a_name_is_never_taken_for_an_address(anvil: Anvil, make_rig: MakeRig) -> None:
    rig = make_rig(anvil.ws, anvil.contract)
    await anvil.mint(1)
    async with rig.running():
        view = NodeView(rig.node, None, None, {})
        await until(rig, lambda h: isinstance(h, PeerSet), "the device has the peer")
        assert view.decide("10.77.0.2")["reason"] == "unknown"
        found = await view.peer("node-1")
        assert found is not None
        assert found["peer"]["node_id"] == "node-1"
        assert [entry["kind"] for entry in found["history"]] == ["access.decided", "peer.set"]
        assert await view.peer("node-2") is None
