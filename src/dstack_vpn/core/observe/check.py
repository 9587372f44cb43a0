"""A check's outcome, and what to do about it."""

from dataclasses import dataclass
from enum import StrEnum


class CheckStatus(StrEnum):
    """How it went."""

    PASS = "pass"  # noqa: S105 - no password
    WARN = "warn"
    """It works, or can't be decided, but the operator should know."""
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the report."""

    name: str
    status: CheckStatus
    found: str
    """The observation."""
    advice: str = ""
    """The advice; empty if nothing is to be done."""


def passed(name: str, found: str) -> Check:
    """It is as it should be."""
    return Check(name, CheckStatus.PASS, found)


def warned(name: str, found: str, advice: str) -> Check:
    """Somebody should know."""
    return Check(name, CheckStatus.WARN, found, advice)


def failed(name: str, found: str, advice: str) -> Check:
    """It can't work like that."""
    return Check(name, CheckStatus.FAIL, found, advice)
