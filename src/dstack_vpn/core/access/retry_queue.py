"""The queue of queries about tokens that wait for a quorum.

A token's state is never in two queries at once. A state that a reply left open is queried again
after a growing pause. A token whose state has changed since is queried at once: replies about a
former block cannot settle the new state.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from dstack_vpn.core.chain.contract import Claim
from dstack_vpn.core.chain.node import Node
from dstack_vpn.core.model import TokenId

MOST: Final = 340
"""Tokens in one question; further ones go into the next questions."""
RETRY: Final = (1.0, 15.0)
"""Seconds until a question without a result is repeated: the first pause and the longest."""

Held: TypeAlias = Node | Claim | None
"""A state in the registry: a token's (None: it does not exist), or that of the contract itself."""
States: TypeAlias = Mapping[TokenId, Held]
"""Tokens, and `CONTRACT`, with their states in the registry."""

_NOTHING: Final = object()
"""Equals no state."""


@dataclass(frozen=True, slots=True)
class _Postponed:
    """A query without a result."""

    state: Held
    due: float
    pause: float


@dataclass(slots=True)
class RetryQueue:
    """The open and the postponed queries. All times are seconds of one monotonic clock."""

    _open: dict[TokenId, Held] = field(default_factory=dict)
    """The state of each token when its open query was sent."""
    _postponed: dict[TokenId, _Postponed] = field(default_factory=dict)

    @property
    def postponed(self) -> bool:
        """Return whether a query is postponed."""
        return bool(self._postponed)

    def take(self, waiting: States, now: float) -> tuple[dict[TokenId, Held], bool]:
        """Return the tokens to query in one question now, and whether more of them wait."""
        due = [token for token, state in waiting.items() if self._is_due(token, state, now)]
        taken = {token: waiting[token] for token in due[:MOST]}
        self._open.update(taken)
        return taken, len(due) > MOST

    def _is_due(self, token: TokenId, state: Held, now: float) -> bool:
        if self._open.get(token, _NOTHING) == state:
            return False
        postponed = self._postponed.get(token)
        return postponed is None or postponed.state != state or postponed.due <= now

    def answered(self, asked: States, waiting: States, now: float) -> None:
        """Close a question; postpone its tokens that still wait in the same state."""
        for token, state in asked.items():
            if self._open.get(token, _NOTHING) == state:
                del self._open[token]
            before, current = self._postponed.get(token), waiting.get(token, _NOTHING)
            if current == state:
                again = before is not None and before.state == state
                pause = min(2 * before.pause, RETRY[1]) if before is not None and again else RETRY[0]
                self._postponed[token] = _Postponed(state, now + pause, pause)
            elif before is not None and before.state != current:
                del self._postponed[token]
