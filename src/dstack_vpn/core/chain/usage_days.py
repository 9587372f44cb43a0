"""The use of RPC endpoints on each of the last days, and an estimate for a whole day.

Days are those of UTC, in which providers count. The clock may be wrong and be corrected. Use that
was recorded on a later day is then added to the present day: the calls were made, so a budget for
the day must contain them.
"""

from dataclasses import dataclass, field
from datetime import date
from typing import Final

from dstack_vpn.core.chain.usage import Usage, UsageByEndpoint, added

DAY: Final = 86_400
"""Seconds."""
KEPT: Final = 7
"""Days that are kept, the present one included."""
ENOUGH: Final = 600.0
"""Seconds of observation that an estimate needs. The calls of a start would dominate a shorter
one."""
_EPOCH: Final = date(1970, 1, 1).toordinal()


def day_of(now: float) -> int:
    """Return the number of days from 1970-01-01 to ``now`` (Unix seconds)."""
    return int(now // DAY)


@dataclass(frozen=True, slots=True)
class UsageDay:
    """The use on one day."""

    number: int
    """The days since 1970-01-01."""
    seconds: float = 0.0
    """The part of the day that was observed: the daemon ran."""
    usage: UsageByEndpoint = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Return the date, such as ``2026-11-29``."""
        return date.fromordinal(_EPOCH + self.number).isoformat()

    def plus(self, seconds: float, usage: UsageByEndpoint) -> "UsageDay":
        """Return the day with more of it observed."""
        return UsageDay(self.number, self.seconds + seconds, added(self.usage, usage))


@dataclass(frozen=True, slots=True)
class Estimate:
    """The use to expect for a whole day."""

    seconds: float
    """The observed time."""
    usage: UsageByEndpoint


@dataclass(frozen=True, slots=True)
class UsageDays:
    """The use on each of the last days that had any, the oldest first."""

    days: tuple[UsageDay, ...] = ()

    def record(self, now: float, seconds: float, usage: UsageByEndpoint) -> "UsageDays":
        """Return the days with the use of the last ``seconds`` before ``now`` (Unix seconds).

        It counts for the day of ``now``, even if a part of it was before midnight.
        """
        today = UsageDay(day_of(now)).plus(seconds, usage)
        for day in self.days:
            if day.number >= today.number:
                today = today.plus(day.seconds, day.usage)
        earlier = [day for day in self.days if today.number - KEPT < day.number < today.number]
        return UsageDays((*earlier, today))

    def today(self, now: float) -> UsageDay:
        """Return the day of ``now``."""
        number = day_of(now)
        return next((day for day in self.days if day.number == number), UsageDay(number))

    def together(self) -> UsageByEndpoint:
        """Return the use of all kept days."""
        found: UsageByEndpoint = {}
        for day in self.days:
            found = added(found, day.usage)
        return found

    def estimate(self, now: float) -> Estimate | None:
        """Return the use to expect for a whole day; None if too little was observed.

        It is the rate of the day of ``now``. Soon after midnight, that of the day before is
        included.
        """
        day = self.today(now)
        seconds, usage = day.seconds, day.usage
        if seconds < ENOUGH:
            before = self.today(now - DAY)
            seconds, usage = seconds + before.seconds, added(usage, before.usage)
        if seconds < ENOUGH:
            return None
        factor = DAY / seconds
        return Estimate(
            seconds,
            {
                endpoint: {method: _times(each, factor) for method, each in methods.items()}
                for endpoint, methods in usage.items()
            },
        )


def _times(usage: Usage, factor: float) -> Usage:
    return Usage(*(round(value * factor) for value in (usage.count, usage.sent, usage.received)))
