"""The queue of queries about tokens that wait for a quorum.

A token is never in two queries at once. A token that a reply left open is retried after a growing
pause.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Final

from dstack_vpn.core.model import TokenId

MOST: Final = 340
"""Tokens in one question; further ones go into the next questions."""
RETRY: Final = (1.0, 15.0)
"""Seconds until a question without a result is repeated: the first pause and the longest."""


@dataclass(slots=True)
class RetryQueue:
    """The open and the postponed queries. All times are seconds of one monotonic clock."""

    _asked: set[TokenId] = field(default_factory=set)
    """Tokens in an open question."""
    _again: dict[TokenId, tuple[float, float]] = field(default_factory=dict)
    """The time of each token's next query, and the pause that ends then."""

    @property
    def postponed(self) -> bool:
        """Return whether a query is postponed."""
        return bool(self._again)

    def take(self, waiting: Iterable[TokenId], now: float) -> tuple[list[TokenId], bool]:
        """Return the waiting tokens to ask about in one question now, and whether more wait."""
        due = [
            token
            for token in waiting
            if token not in self._asked and self._again.get(token, (0.0, 0.0))[0] <= now
        ]
        self._asked.update(due[:MOST])
        return due[:MOST], len(due) > MOST

    def answered(self, tokens: Collection[TokenId], waiting: Iterable[TokenId], now: float) -> None:
        """Close the question about these tokens; postpone those that still wait."""
        self._asked.difference_update(tokens)
        still = set(waiting)
        for token in tokens:
            _, pause = self._again.pop(token, (0.0, 0.0))
            if token in still:
                pause = min(max(2 * pause, RETRY[0]), RETRY[1])
                self._again[token] = now + pause, pause
