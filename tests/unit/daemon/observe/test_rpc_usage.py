"""The use of RPC endpoints by day, in a whole daemon and over restarts."""

import asyncio
from dataclasses import dataclass, field
from functools import partial

import pytest
from tests.scripted import ScriptedChain, ScriptedSource, grant
from tests.unit.daemon.conftest import Bench, MemoryOfUsage, eventually

from dstack_vpn.adapters.clock import SystemClock
from dstack_vpn.core.chain.budget import LONGEST, Budget, BudgetStage
from dstack_vpn.core.chain.events import Revoked
from dstack_vpn.core.chain.usage import Usage, total
from dstack_vpn.core.chain.usage_days import DAY, UsageDay, UsageDays, day_of
from dstack_vpn.core.observe.event import Event
from dstack_vpn.core.observe.events import BudgetUsed
from dstack_vpn.core.observe.reports import BudgetReport
from dstack_vpn.daemon.daemon import Daemon
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
    budget: Budget | None = None
    published: list[Event] = field(default_factory=list)
    usage: RpcUsage = field(init=False)

    def __post_init__(self) -> None:
        self.usage = RpcUsage(self.source, self.memory, self.clock, self.budget, self.published.append)

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


def test_the_budget_is_published_once_a_day_at_each_stage() -> None:
    rig = Used(budget=Budget(100))
    for calls in (79, 1, 1, 18, 1, 5):
        rig.calls(calls)
        rig.usage.look()
    assert rig.published == [BudgetUsed(80, 100, False), BudgetUsed(100, 100, True)]
    rig.calls(85, after=float(DAY))
    rig.usage.look()
    rig.usage.look()
    assert rig.published[2:] == [BudgetUsed(85, 100, False)]


def test_a_new_day_has_the_configured_interval_again() -> None:
    rig = Used(budget=Budget(100))
    rig.calls(100)
    rig.usage.look()
    assert rig.usage.until_resync(0.0, 30.0) == LONGEST
    assert rig.usage.report() == BudgetReport(100, 100, BudgetStage.SPENT, LONGEST)
    rig.clock.at += DAY / 2  # midnight
    assert rig.usage.until_resync(0.0, 30.0) == 30.0


def test_without_a_budget_nothing_is_slowed_or_published() -> None:
    rig = Used()
    rig.calls(10**9)
    rig.usage.look()
    assert rig.usage.until_resync(10.0, 30.0) == 20.0
    assert rig.usage.report() is None
    assert rig.published == []


@pytest.fixture
def spent(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A node whose budget was spent by an earlier process of the same day."""
    monkeypatch.setattr(rpc_usage, "TICK", 0.01)
    bench.resync_interval, bench.rpc_daily_calls = 0.02, 1000
    calls = {"ws://scripted": {"eth_call": Usage(1000)}}
    bench.usage.saved = UsageDays().record(SystemClock().now(), 1.0, calls)
    return bench


def slow(node: Daemon) -> bool:
    """Return whether the next resync is a quarter of the longest staleness away."""
    return node.chain.state.until_resync(0.0, 0.02) == 900


def has(bench: Bench, token: int) -> bool:
    return token in bench.tokens()


async def events_while_following(bench: Bench) -> int:
    """Push many changes, and wait for each on the device; return the resyncs meanwhile."""
    begun = bench.node.chain.state.resyncs
    for number in range(1, 31):
        bench.source.tell(bench.chain.mine(grant(number)))
        await eventually(partial(has, bench, number))
        bench.source.tell(bench.chain.mine(Revoked(number)))
        await eventually(lambda: not bench.tokens())
        await asyncio.sleep(0.02)  # the configured interval
    return bench.node.chain.state.resyncs - begun


async def test_a_spent_budget_slows_resyncs_and_no_event(spent: Bench) -> None:
    async with spent.running() as node:
        await eventually(lambda: spent.follows() and slow(node))
        assert await events_while_following(spent) <= 1, "one may have been under way"
        reason = "resyncs may be up to 900 s apart; revocations are not delayed"
        assert spent.component("rpc budget") == (
            f"warning: 1000 of the 1000 calls of RPC_DAILY_CALLS were made since 00:00 UTC; {reason}"
        )
        kinds = [entry.event for entry in node.event_log.latest()]
        assert kinds.count(BudgetUsed(1000, 1000, True)) == 1


async def test_a_budget_that_is_not_spent_slows_nothing(spent: Bench) -> None:
    spent.usage.saved = UsageDays()
    async with spent.running():
        await eventually(spent.follows)
        assert await events_while_following(spent) >= 10
        reason = "0 of the 1000 calls of RPC_DAILY_CALLS were made since 00:00 UTC"
        assert spent.component("rpc budget") == f"ok: {reason}"


async def test_mass_removals_are_confirmed_with_a_spent_budget(spent: Bench) -> None:
    spent.chain.mine(*(grant(number) for number in range(1, 9)))
    async with spent.running() as node:
        await eventually(lambda: len(spent.tokens()) == 8)
        await eventually(lambda: slow(node))
        spent.source.tell(spent.chain.mine(*(Revoked(number) for number in range(1, 8))))
        await eventually(lambda: spent.tokens() == {8})
        assert spent.source.seconds >= 1, "a second reading"


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
