"""Key rotation: the decision to replace our own key, from its age.

The age of a key is the lower of two ages: by the registry and by its file. The registry's time is
exact, and a rolled back disk does not change it; but one endpoint could forge it and make us pay
for new keys repeatedly. The file's time comes from this machine; but a copied file is younger than
its key, and a wrong clock can put its time in the future. So a key is replaced only if it is old by
both, or if it is old by the registry and the file's time is in the future.

Rotation begins in the last tenth of the allowed age, to leave time for retries, and at different
moments on nodes that were set up together. A failed attempt is repeated after growing pauses with
jitter.

    the age is unknown, or below `Schedule.due`                    rest
    the key is old, and this node cannot change it                 remind
    the key is old, but the chain is away, or we are not a member  rest: the new key would
                                                                   not take effect
    the key is old, and the last attempt was recent                rest
    the key is old                                                 renew
"""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final, Self

from dstack_vpn.core.limits.backoff import full_jitter

EARLIEST: Final = 0.9
"""The part of the longest age at which the first of many nodes begins..."""
SPREAD: Final = 0.05
"""...and the part of it over which the others follow."""
START: Final = 10.0
"""Seconds without an attempt after the start, and up to twice as many.

A node that restarts repeatedly therefore does not attempt each time.
"""
SHORTEST: Final = 60.0
"""Least seconds between two attempts."""
LONGEST: Final = 6 * 3600.0
"""Seconds to which a pause grows, in addition to `SHORTEST`."""
SETTLING: Final = 600.0
"""Seconds until a key that was announced, but did not arrive here, is announced again."""


class KeyAction(StrEnum):
    """The action on our key."""

    REST = "rest"
    RENEW = "renew"
    REMIND = "remind"


@dataclass(frozen=True, slots=True)
class Look:
    """The facts at one moment."""

    now: float
    """Monotonic seconds."""
    age: float | None
    member: bool
    """The chain is followed, and our key is registered and active."""
    able: bool
    """This node can change its key."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """The schedule of our key's rotation."""

    longest: float
    """Seconds."""
    spread: float
    """In [0, 1): the position of this node among nodes that were set up together."""
    failures: int = 0
    ready_at: float = 0.0
    """The time before which no attempt is made; monotonic seconds."""

    @property
    def due(self) -> float:
        """Return the age at which rotation begins; seconds."""
        return self.longest * (EARLIEST + SPREAD * self.spread)

    def decide(self, look: Look) -> KeyAction:
        """Return the action for these facts."""
        if look.age is None or look.age < self.due:
            return KeyAction.REST
        if not look.able:
            return KeyAction.REMIND
        return KeyAction.RENEW if look.member and look.now >= self.ready_at else KeyAction.REST

    def started(self, now: float) -> Self:
        """Return the schedule after the start of the daemon."""
        return replace(self, ready_at=now + START * (1 + self.spread))

    def announced(self, now: float) -> Self:
        """Return the schedule after a new key was announced; it should arrive here soon."""
        return replace(self, failures=0, ready_at=now + SETTLING)

    def failed(self, now: float, draw: float) -> Self:
        """Return the schedule after a failed attempt; ``draw`` is uniform in [0, 1)."""
        failures = self.failures + 1
        pause = SHORTEST + full_jitter(failures, draw, base=SHORTEST, cap=LONGEST)
        return replace(self, failures=failures, ready_at=now + pause)


def age_of(*, registry: float | None, file: float | None) -> float | None:
    """Return the seconds since our key was set, by the two ages; None without the registry's.

    A file's time in the future is ignored; the result is at least 0.
    """
    if registry is None:
        return None
    return max(0.0, registry if file is None or file < 0 else min(registry, file))


def span(seconds: float) -> str:
    """Format a duration in days, or in hours, minutes or seconds if it is shorter."""
    for unit, length in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
