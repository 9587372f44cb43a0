"""The tunnel beside other programs: conflicts show in health and are logged once."""

import asyncio
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from structlog.testing import capture_logs
from tests.memory_device import MemoryDevice
from tests.unit.daemon.conftest import OWN, Bench, eventually

from dstack_vpn.core.chain.events import Granted
from dstack_vpn.core.limits.time_share import TimeShare
from dstack_vpn.core.names import Answer, DnsRecord, DnsStatus
from dstack_vpn.core.wireguard.x25519 import derive
from dstack_vpn.daemon.device import tunnel as module
from dstack_vpn.errors import DeviceError
from dstack_vpn.wiring.names import without_ipv6


async def test_a_port_in_use_is_logged_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    tries = 0

    async def refuse(*_: Any) -> None:
        nonlocal tries
        tries += 1
        await asyncio.sleep(0)
        raise DeviceError("can't listen on UDP port 51820: the UDP port is in use by another program")

    monkeypatch.setattr(MemoryDevice, "configure", refuse)
    monkeypatch.setattr(module, "RETRY", 0.001)
    bench.chain.mine(Granted(3, "0xme", "node-0", derive(OWN)))
    with capture_logs() as logs, suppress(TimeoutError):
        async with bench.running() as node:
            await eventually(lambda: node.tunnel.members.own_node is not None)
            before = tries
            await eventually(lambda: tries > before + 10)
            assert "in use by another program" in bench.component("device")
    events = [line["event"] for line in logs]
    assert events.count("device.trouble") == 1
    assert events.count("device.addresses") <= 2, "none yet, and our token's"


async def test_a_route_of_others_is_in_health_and_logged_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "COMPARE", TimeShare(200, 0.001))
    monkeypatch.setattr(module, "CHECK", 0.001)
    with capture_logs() as logs:
        async with bench.running() as node:
            await eventually(lambda: bench.component("device").startswith("ok"))
            for _ in range(2):
                bench.link.taken = "the route 10.77.0.0/16 dev wg1 proto 118 of another program takes packets"
                await eventually(lambda: "failed: the route 10.77" in bench.component("device"))
                assert node.reporter.collect().device.up
                bench.link.taken = None
                await eventually(lambda: bench.component("device").startswith("ok"))
    assert [line["event"] for line in logs].count("device.route_taken") == 2


async def test_a_host_without_ipv6_has_no_ipv6_address_to_show(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "COMPARE", TimeShare(200, 0.001))
    monkeypatch.setattr(module, "CHECK", 0.001)
    bench.chain.mine(Granted(3, "0xme", "node-0", derive(OWN)))
    async with bench.running() as node:
        await eventually(lambda: len(node.tunnel.own_addresses) == 2)
        bench.link.without_ipv6 = True
        await eventually(lambda: node.tunnel.own_addresses == {"10.77.0.4/32"})
        assert bench.component("device") == "ok: IPv4 only: IPv6 is disabled on this host"
        bench.link.without_ipv6 = False
        await eventually(lambda: len(node.tunnel.own_addresses) == 2)


def test_names_leave_out_what_a_host_without_ipv6_cannot_reach() -> None:
    ipv4, ipv6 = DnsRecord("A", "10.77.0.4"), DnsRecord("AAAA", "fd00::4")
    assert without_ipv6(Answer(DnsStatus.FOUND, "z", (ipv4, ipv6))) == Answer(DnsStatus.FOUND, "z", (ipv4,))
    assert without_ipv6(Answer(DnsStatus.FOUND, "z", (ipv6,))) == Answer(DnsStatus.NO_DATA, "z")
    assert without_ipv6(Answer(DnsStatus.FOUND, "z")) == Answer(DnsStatus.FOUND, "z")
    assert without_ipv6(Answer(DnsStatus.NO_NAME, "z")) == Answer(DnsStatus.NO_NAME, "z")


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


async def test_an_edited_address_is_restored_at_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHECK", 3600.0)
    monkeypatch.setattr(module, "COMPARE", TimeShare(200, 3600.0))
    bench.chain.mine(Granted(0, "0xme", "node-0", derive(OWN)))
    async with bench.running():
        await eventually(lambda: bench.link.settings is not None and bench.link.settings.addresses)
        wanted = bench.link.settings
        for _ in range(2):
            assert wanted is not None
            bench.link.settings = replace(wanted, addresses=frozenset())
            bench.link.edits.set()
            await eventually(lambda: bench.link.settings == wanted)
