"""The use of RPC endpoints by day.

It is recorded, kept over a restart, and compared with a budget.
"""

import asyncio
from dataclasses import dataclass, field
from typing import Final

import structlog

from dstack_vpn.core.chain.budget import Budget, BudgetStage
from dstack_vpn.core.chain.usage import UsageByEndpoint, subtracted, total
from dstack_vpn.core.chain.usage_days import UsageDays
from dstack_vpn.core.observe.events import BudgetUsed
from dstack_vpn.core.observe.reports import BudgetReport
from dstack_vpn.errors import StoreError
from dstack_vpn.ports import ChainSource, Clock, Publish, UsageMemory

_log = structlog.get_logger(component="rpc")

TICK: Final = 5.0
"""Seconds between records. Use before midnight may count for the next day for this long."""
SAVED: Final = 60.0
"""Seconds between writes of the file. A killed daemon forgets the use since the last one."""


@dataclass(slots=True)
class RpcUsage:
    """The use since the start, and on each of the last days."""

    source: ChainSource
    memory: UsageMemory
    clock: Clock
    budget: Budget | None
    """None: there is no limit."""
    publish: Publish
    _days: UsageDays = field(default_factory=UsageDays, init=False)
    _counted: UsageByEndpoint = field(default_factory=dict, init=False)
    """The use since the start that `_days` contains."""
    _at: float = field(init=False)
    """The monotonic time up to which `_days` is complete."""
    _loaded: bool = field(default=False, init=False)
    _published: tuple[int, BudgetStage] = field(default=(0, BudgetStage.WITHIN), init=False)
    """The stage of the budget that was published last, and its day."""

    def __post_init__(self) -> None:
        self._at = self.clock.monotonic()

    def since_start(self) -> UsageByEndpoint:
        """Return the use since the start of the process."""
        return self.source.usage()

    def days(self) -> UsageDays:
        """Return the days, with the use up to now."""
        used, at = self.source.usage(), self.clock.monotonic()
        self._days = self._days.record(self.clock.now(), at - self._at, subtracted(used, self._counted))
        self._counted, self._at = used, at
        return self._days

    async def run(self) -> None:
        """Record until cancelled, and write the file. Absorbs `StoreError`."""
        await self.load()
        while True:
            saved = self.clock.monotonic()
            while self.clock.monotonic() - saved < SAVED:
                self.look()
                await asyncio.sleep(TICK)
            await self.save()

    def look(self) -> None:
        """Record the use up to now, and publish that most or all of the budget is used."""
        now = self.clock.now()
        today = self.days().today(now)
        if self.budget is None:
            return
        used = total(today.usage).calls
        stage = self.budget.stage(used)
        if stage is not BudgetStage.WITHIN and (today.number, stage) != self._published:
            self._published = today.number, stage
            self.publish(BudgetUsed(used, self.budget.calls, stage is BudgetStage.SPENT))

    def until_resync(self, passed: float, configured: float) -> float:
        """Return the seconds until the next resync, ``passed`` seconds after the last one began.

        ``configured`` is the interval, which the budget may exceed.
        """
        if self.budget is None:
            return configured - passed
        return self.budget.until_resync(passed, configured, self._used(), self.clock.now())

    def report(self) -> BudgetReport | None:
        """Report for health; None without a budget."""
        if self.budget is None:
            return None
        used = self._used()
        return BudgetReport(used, self.budget.calls, self.budget.stage(used), self.budget.longest)

    def _used(self) -> int:
        """Return the calls of today up to the last record."""
        return total(self._days.today(self.clock.now()).usage).calls

    async def load(self) -> None:
        """Add the days that were kept. Absorbs `StoreError`."""
        try:
            kept = await self.memory.load()
        except StoreError as error:
            _log.warning("rpc.usage_unknown", reason=str(error))
            kept = UsageDays()
        for day in self._days.days:
            kept = kept.record(self.clock.now(), day.seconds, day.usage)
        self._days, self._loaded = kept, True

    async def save(self) -> None:
        """Write the file. Absorbs `StoreError`."""
        if not self._loaded:
            return  # else the kept days would be lost
        try:
            await self.memory.save(self.days())
        except StoreError as error:
            _log.warning("rpc.usage_not_kept", reason=str(error))
