"""How old our own key may get: facts in, a decision out.

A key is as old as *both* the registry and its file say. The registry's time is exact, and no rolled back disk
changes it; but one endpoint could forge it, and have us pay for a new key again and again. The file's time is
this machine's own; but a copied file is younger than its key, and a clock that was wrong leaves it in the
future. Only where both say that it is old, or the file's time can't be right, is it changed.

Changing begins in the last tenth of the time, so that there is some left for what fails, and not at the same
moment on nodes that were set up together. What has failed is tried again after growing pauses with jitter.

    there is no age, or it is below `Schedule.due`           rest
    it is old, and something keeps us from changing it       remind
    it is old, but the chain is away, or we are no member    rest: nobody would take the new key
    it is old, and the last try was a moment ago             rest
    it is old                                                renew
"""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final, Self

from dstack_vpn.core.limits.backoff import full_jitter

EARLIEST: Final = 0.9
"""The part of the longest age at which the first node of many begins..."""
SPREAD: Final = 0.05
"""...and over what part of it the others follow."""
START: Final = 10.0
"""Seconds from the start, and up to twice of them: who is restarted over and over does not try each time."""
SHORTEST: Final = 60.0
"""Seconds between two tries at least."""
LONGEST: Final = 6 * 3600.0
"""Seconds that a pause grows to, besides the shortest."""
SETTLING: Final = 600.0
"""Seconds that a key that was announced has to get here; then it is announced again."""


class KeyAction(StrEnum):
    """What to do about our key."""

    REST = "rest"
    RENEW = "renew"
    REMIND = "remind"


@dataclass(frozen=True, slots=True)
class Look:
    """The facts at one moment."""

    now: float
    """Seconds, monotonic."""
    age: float | None
    member: bool
    """The chain is followed, and our key is in force there."""
    able: bool
    """We have what it takes to change it."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """When our key is changed."""

    longest: float
    """Seconds."""
    spread: float
    """In [0, 1): where in the crowd of nodes this one begins."""
    failures: int = 0
    ready_at: float = 0.0
    """No try before that; seconds, monotonic."""

    @property
    def due(self) -> float:
        """The age at which changing it begins; seconds."""
        return self.longest * (EARLIEST + SPREAD * self.spread)

    def decide(self, look: Look) -> KeyAction:
        """What to do now."""
        if look.age is None or look.age < self.due:
            return KeyAction.REST
        if not look.able:
            return KeyAction.REMIND
        return KeyAction.RENEW if look.member and look.now >= self.ready_at else KeyAction.REST

    def started(self, now: float) -> Self:
        """The daemon has just begun."""
        return replace(self, ready_at=now + START * (1 + self.spread))

    def announced(self, now: float) -> Self:
        """A new key was announced; it should be ours in a moment."""
        return replace(self, failures=0, ready_at=now + SETTLING)

    def failed(self, now: float, draw: float) -> Self:
        """A try has come to nothing; ``draw`` is uniform in [0, 1)."""
        failures = self.failures + 1
        pause = SHORTEST + full_jitter(failures, draw, base=SHORTEST, cap=LONGEST)
        return replace(self, failures=failures, ready_at=now + pause)


def age_of(*, registry: float | None, file: float | None) -> float | None:
    """Seconds since our key was set, by the two ages; None while the registry's is not known.

    A file from the future says nothing; neither age is below 0.
    """
    if registry is None:
        return None
    return max(0.0, registry if file is None or file < 0 else min(registry, file))


def span(seconds: float) -> str:
    """A time for people, in days, or hours and minutes where it is shorter."""
    for unit, length in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
