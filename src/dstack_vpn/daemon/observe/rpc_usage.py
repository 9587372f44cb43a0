"""The use of RPC endpoints: its days are recorded, and kept over a restart."""

import asyncio
from dataclasses import dataclass, field
from typing import Final

import structlog

from dstack_vpn.core.chain.usage import UsageByEndpoint, subtracted
from dstack_vpn.core.chain.usage_days import UsageDays
from dstack_vpn.errors import StoreError
from dstack_vpn.ports import ChainSource, Clock, UsageMemory

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
    _days: UsageDays = field(default_factory=UsageDays, init=False)
    _counted: UsageByEndpoint = field(default_factory=dict, init=False)
    """The use since the start that `_days` contains."""
    _at: float = field(init=False)
    """The monotonic time up to which `_days` is complete."""
    _loaded: bool = field(default=False, init=False)

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
                await asyncio.sleep(TICK)
                self.days()
            await self.save()

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
