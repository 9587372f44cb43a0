"""The outcome of a check, with advice."""

from dataclasses import dataclass
from enum import StrEnum


class CheckStatus(StrEnum):
    """The outcome of a check."""

    PASS = "pass"  # noqa: S105 - no password
    WARN = "warn"
    """It works, or can't be decided; the operator should look at it."""
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Check:
    """A line of the report."""

    name: str
    status: CheckStatus
    found: str
    """The observation."""
    advice: str = ""
    """The advice; empty if nothing is to be done."""


def passed(name: str, found: str) -> Check:
    """Return a check that passed."""
    return Check(name, CheckStatus.PASS, found)


def warned(name: str, found: str, advice: str) -> Check:
    """Return a check with a warning."""
    return Check(name, CheckStatus.WARN, found, advice)


def failed(name: str, found: str, advice: str) -> Check:
    """Return a check that failed."""
    return Check(name, CheckStatus.FAIL, found, advice)
