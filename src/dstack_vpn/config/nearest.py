"""Suggestions for mistyped names: the nearest known name by edit distance."""

from collections.abc import Iterable
from typing import Final

MOST: Final = 2
"""The maximum edit distance: letters replaced, missing, added, or swapped with the next one."""
LEAST: Final = 5
"""The minimum length of a name: two edits of a shorter name give an unrelated one."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name with the least distance, `MOST` at most; None without one."""
    if len(name) < LEAST:
        return None
    found = [
        (distance(name, other), other)
        for other in known
        if len(other) >= LEAST and abs(len(other) - len(name)) <= MOST
    ]
    return min((each for each in found if each[0] <= MOST), default=(0, None))[1]


def distance(one: str, other: str) -> int:
    """Return the edit distance; two swapped neighbours count as one edit."""
    before: list[int] = []
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        before, above, row = row, before, [i]
        for j, b in enumerate(other, 1):
            best = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (a != b))
            if i > 1 and j > 1 and a == other[j - 2] and one[i - 2] == b:
                best = min(best, above[j - 2] + 1)
            row.append(best)
    return row[-1]
