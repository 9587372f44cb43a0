"""A relay's metrics, statistics and health, and a relay without the kernel's offloads."""

import asyncio
import shutil
import subprocess

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.unit.adapters.relay.conftest import Pair, running

from dstack_vpn.adapters.relay.view import RelayView
from dstack_vpn.core.observe.health import Status


@pytest.mark.parametrize("offload", [True, False])
async def test_the_same_datagrams_are_carried_with_and_without_offloads(offload: bool) -> None:
    pair = Pair(offload=offload)
    with pair.source, pair.sink:
        async with running(pair.near, pair.far):
            await pair.carries(range(1, 1500, 37))
    assert bool(pair.engine.offload.missing) is not offload


async def test_metrics_are_what_prometheus_reads(pair: Pair) -> None:
    view = RelayView(pair.near, "1.0", 0.0)
    async with running(pair.near, pair.far):
        await pair.carries(range(10, 20))
        content_type, body = view.metrics()
    assert content_type.startswith("text/plain")
    found = {
        (sample.name, sample.labels.get("direction")): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }
    assert found["dstack_vpn_relay_datagrams_total", "udp_to_tcp"] == 11
    assert found["dstack_vpn_relay_bytes_total", "tcp_to_udp"] == sum(range(10, 20))
    assert found["dstack_vpn_relay_connections", None] == 1
    if shutil.which("promtool") is None:
        pytest.skip("NO PROMTOOL: the metrics are NOT linted; scripts/setup test installs it")
    linted = subprocess.run(  # noqa: ASYNC221 - the relays have stopped
        ["promtool", "check", "metrics"], input=body, capture_output=True, check=False
    )
    assert (linted.returncode, linted.stdout + linted.stderr) == (0, b"")


async def test_statistics_tell_what_a_person_asks_for(pair: Pair) -> None:
    async with running(pair.near, pair.far):
        await pair.carries(range(10, 20))
        near, far = RelayView(pair.near, "1.0", 5.0).stats(), RelayView(pair.far, "1.0", 5.0).stats()
    assert (near["mode"], far["mode"]) == ("udp2tcp", "tcp2udp")
    assert near["upstream"] == pair.near.upstreams[0].name
    assert near["datagrams_up"] == far["datagrams_down"] == 11
    assert near["queued_bytes"] == 0
    assert near["rtt_ms"] > 0


async def test_health_tells_whether_an_upstream_can_be_reached(pair: Pair) -> None:
    view = RelayView(pair.near, "1.0", 0.0)
    async with running(pair.near):
        assert view.health().components[0].status is Status.OK
        async with running(pair.far):
            await pair.carries(range(1, 2))
            assert view.health().ready
        pair.source.send(b"into the void")
        async with asyncio.timeout(10):
            while view.health().ready:  # noqa: ASYNC110 - there is no event for it
                await asyncio.sleep(0.01)
        (component,) = view.health().components
        assert component.status is Status.FAILED
        assert pair.near.upstreams[0].name in component.reason
