"""The use of RPC endpoints by day, in a whole daemon and over restarts."""

from dataclasses import dataclass, field

import pytest
from tests.scripted import ScriptedChain, ScriptedSource
from tests.unit.daemon.conftest import Bench, MemoryOfUsage, eventually

from dstack_vpn.adapters.clock import SystemClock
from dstack_vpn.core.chain.usage import Usage, total
from dstack_vpn.core.chain.usage_days import DAY, UsageDay, UsageDays, day_of
from dstack_vpn.daemon.observe import rpc_usage
from dstack_vpn.daemon.observe.rpc_usage import RpcUsage

NOW = 1_795_953_600.0


@dataclass
class SetClock:
    """A clock that the test sets."""

    at: float = NOW

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at - NOW


@dataclass
class Used:
    """A use of RPC endpoints without a daemon."""

    source: ScriptedSource = field(default_factory=lambda: ScriptedSource(ScriptedChain()))
    memory: MemoryOfUsage = field(default_factory=MemoryOfUsage)
    clock: SetClock = field(default_factory=SetClock)
    usage: RpcUsage = field(init=False)

    def __post_init__(self) -> None:
        self.usage = RpcUsage(self.source, self.memory, self.clock)

    def calls(self, count: int, after: float = 0.0) -> None:
        """Make calls, ``after`` seconds."""
        self.clock.at += after
        before = self.source.used.get("eth_call", Usage())
        self.source.used["eth_call"] = before + Usage(count, count, count)


def test_use_is_counted_once() -> None:
    rig = Used()
    rig.calls(3, after=10.0)
    for _ in range(3):
        rig.usage.days()
    rig.calls(4, after=20.0)
    today = rig.usage.days().today(rig.clock.now())
    assert (total(today.usage).calls, today.seconds) == (7, 30.0)
    assert total(rig.usage.since_start()).calls == 7


def test_midnight_begins_another_day() -> None:
    rig = Used()
    rig.calls(3)
    rig.usage.days()
    rig.calls(4, after=float(DAY))
    days = rig.usage.days()
    assert [total(day.usage).calls for day in days.days] == [3, 4]


async def test_a_restart_continues_the_day() -> None:
    rig = Used()
    rig.memory.saved = UsageDays().record(NOW - 5, 100.0, {"wss://old": {"eth_call": Usage(50)}})
    rig.calls(1, after=1.0)
    rig.usage.days()  # before the file was read
    await rig.usage.load()
    rig.calls(2, after=1.0)
    today = rig.usage.days().today(rig.clock.now())
    assert (total(today.usage).calls, today.seconds) == (53, 102.0)
    assert total(rig.usage.since_start()).calls == 3
    await rig.usage.save()
    assert rig.memory.saved == rig.usage.days()


async def test_a_file_that_was_not_read_is_not_replaced() -> None:
    rig = Used()
    kept = rig.memory.saved = UsageDays((UsageDay(day_of(NOW), 1.0),))
    await rig.usage.save()
    assert rig.memory.saved == kept


async def test_a_broken_disk_changes_nothing() -> None:
    rig = Used()
    rig.memory.broken = True
    await rig.usage.load()
    rig.calls(2)
    await rig.usage.save()
    assert total(rig.usage.days().together()).calls == 2


async def test_a_daemon_keeps_its_use_over_a_restart(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc_usage, "TICK", 0.01)
    monkeypatch.setattr(rpc_usage, "SAVED", 0.02)
    bench.source.used["eth_call"] = Usage(5, 50, 500)
    async with bench.running():
        await eventually(lambda: total(bench.usage.saved.together()).calls == 5)
        bench.source.used["eth_call"] = Usage(6, 60, 600)
    assert total(bench.usage.saved.together()).calls == 6, "written at the end"
    again = Bench(chain=bench.chain, usage=bench.usage)
    again.source.used["eth_call"] = Usage(1, 10, 100)
    async with again.running() as node:
        now = SystemClock().now
        await eventually(lambda: total(node.rpc_usage.days().together()).calls == 7)
        assert total(node.rpc_usage.since_start()).calls == 1
        assert node.rpc_usage.days().today(now()).seconds > 0
