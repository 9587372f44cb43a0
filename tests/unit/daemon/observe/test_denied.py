"""Denied packets become events, a bounded number of them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.memory_firewall import MemoryFirewall
from tests.unit.core.policy.examples import PLAN
from tests.unit.daemon.conftest import eventually

from dstack_vpn.adapters.clock import SystemClock
from dstack_vpn.core.observe.event import Event
from dstack_vpn.core.observe.events import PacketDenied, PacketsDenied
from dstack_vpn.core.policy.compiler import CompiledPolicy
from dstack_vpn.core.policy.forwarding import ConnectedViews
from dstack_vpn.core.policy.selection import PolicySelection
from dstack_vpn.daemon.observe.denied import DeniedWatch
from dstack_vpn.daemon.peers.policies import Policies
from dstack_vpn.ports import DeniedPackets, PacketCount, PolicyCounts

SSH = DeniedPackets("10.77.0.3", "10.77.0.1", 6, 22, 4)
PING = DeniedPackets("10.77.0.9", "10.77.0.1", 1, 0, 1)
GRE = DeniedPackets("10.77.0.9", "10.77.0.1", 47, 0, 1)


@asynccontextmanager
async def watching(firewall: MemoryFirewall) -> AsyncIterator[tuple[DeniedWatch, list[Event]]]:
    published: list[Event] = []
    policies = Policies(PLAN, PolicySelection(), SystemClock(), published.append, has_exit=False)
    policies.compiled = ConnectedViews(CompiledPolicy((), (), None))
    names = {"10.77.0.3": "web-1"}
    watch = DeniedWatch(firewall, "wg0", policies, names.get, published.append, interval=0.005)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(watch.run())
        yield watch, published
        task.cancel()


def counted(*entries: DeniedPackets) -> PolicyCounts:
    return PolicyCounts({}, PacketCount(len(entries), 60 * len(entries)), entries)


async def test_each_entry_is_published_once_while_it_lasts() -> None:
    firewall = MemoryFirewall(counts=counted(SSH, PING, GRE))
    async with watching(firewall) as (watch, published):
        await eventually(lambda: len(published) == 3)
        assert published == [
            PacketDenied("10.77.0.3", "web-1", "10.77.0.1", "tcp", 22),
            PacketDenied("10.77.0.9", None, "10.77.0.1", "icmp", 0),
            PacketDenied("10.77.0.9", None, "10.77.0.1", "47", 0),
        ]
        firewall.counts = counted(SSH._replace(packets=9))
        await eventually(lambda: watch.counts == firewall.counts)
        assert len(published) == 3
        firewall.counts = counted()
        await eventually(lambda: watch.counts == firewall.counts)
        firewall.counts = counted(SSH)
        await eventually(lambda: len(published) == 4)


async def test_a_port_scan_is_one_event() -> None:
    firewall = MemoryFirewall(counts=counted(*(SSH._replace(port=port) for port in range(1, 1000))))
    async with watching(firewall) as (_, published):
        await eventually(lambda: published)
        assert published == [PacketsDenied(999)]


async def test_without_a_policy_nothing_is_read() -> None:
    firewall = MemoryFirewall(counts=counted(SSH))
    async with watching(firewall) as (watch, published):
        await eventually(lambda: published)
        watch.policies.compiled = None
        await eventually(lambda: not watch.counts.recent)
