"""The known name that a mistyped one was probably meant to be."""

from collections.abc import Iterable
from typing import Final

MOST: Final = 2
"""Letters that may be wrong, missing, too many, or changed places with the next."""
LEAST: Final = 5
"""Letters that a name must have: among shorter ones, two letters make another name."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that differs least, by `MOST` letters at most; None if none is that near."""
    if len(name) < LEAST:
        return None
    found = [
        (distance(name, other), other)
        for other in known
        if len(other) >= LEAST and abs(len(other) - len(name)) <= MOST
    ]
    return min((each for each in found if each[0] <= MOST), default=(0, None))[1]


def distance(one: str, other: str) -> int:
    """Return the edit distance, where two letters that changed places count as one edit."""
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
