"""Which of the tokens that wait for a quorum to ask about now.

None is asked about twice at the same time, and one that an answer left open only after a pause that grows.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Final

from dstack_vpn.core.model import TokenId

MOST: Final = 340
"""Tokens in one question; more of them are asked about one question after the other."""
RETRY: Final = (1.0, 15.0)
"""Seconds until a question that came to nothing is asked again, at first and at most."""


@dataclass(slots=True)
class RetryQueue:
    """What is being asked, and what is to be asked again. All times are seconds of one monotonic clock."""

    _asked: set[TokenId] = field(default_factory=set)
    """Tokens that a question is under way about."""
    _again: dict[TokenId, tuple[float, float]] = field(default_factory=dict)
    """When to ask about a token again, and the pause that this is the end of."""

    @property
    def postponed(self) -> bool:
        """Whether there is something to ask again."""
        return bool(self._again)

    def take(self, waiting: Iterable[TokenId], now: float) -> tuple[list[TokenId], bool]:
        """Of the tokens that wait, those to ask about in one question now, and whether there are more."""
        due = [
            token
            for token in waiting
            if token not in self._asked and self._again.get(token, (0.0, 0.0))[0] <= now
        ]
        self._asked.update(due[:MOST])
        return due[:MOST], len(due) > MOST

    def answered(self, tokens: Collection[TokenId], waiting: Iterable[TokenId], now: float) -> None:
        """The question about these tokens is over; those that are waiting still are put off."""
        self._asked.difference_update(tokens)
        still = set(waiting)
        for token in tokens:
            _, pause = self._again.pop(token, (0.0, 0.0))
            if token in still:
                pause = min(max(2 * pause, RETRY[0]), RETRY[1])
                self._again[token] = now + pause, pause
