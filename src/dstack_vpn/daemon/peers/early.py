"""Early revocations (REVOKE_EARLY): the hints of the followed endpoint, and their outcome.

`Members` decides about the tokens that `core.access.early` takes out and gives back.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from dstack_vpn.core.access.early import EarlyRemovals, EarlySubscription, Ended, Preconfirmed
from dstack_vpn.core.chain.commands import Advanced
from dstack_vpn.core.chain.follower import Follower
from dstack_vpn.core.model import TokenId
from dstack_vpn.core.observe.events import EarlyRemovalFalse, EarlyUnavailable
from dstack_vpn.core.observe.reports import EarlyReport
from dstack_vpn.ports import Clock, Publish


@dataclass(slots=True)
class EarlyRevocations:
    """The early removals, and the reason that there are none."""

    is_on: bool
    clock: Clock
    publish: Publish
    removed: int = field(default=0, init=False)
    """Tokens that pre-confirmed events have taken out since the start."""
    confirmed: int = field(default=0, init=False)
    """Those of them whose events the chain has."""
    false: int = field(default=0, init=False)
    """Those of them that were given back."""
    _removals: EarlyRemovals = field(default_factory=EarlyRemovals, init=False)
    _subscription: EarlySubscription | None = field(default=None, init=False)

    @property
    def reasons(self) -> Mapping[TokenId, str]:
        """The tokens that are out, with their events."""
        return self._removals.reasons

    @property
    def waits(self) -> bool:
        """True while a token is out: the next blocks decide about it."""
        return bool(self._removals.reasons)

    def report(self) -> EarlyReport | None:
        """Report for health and metrics; None if the setting is off."""
        if not self.is_on:
            return None
        return EarlyReport(
            tokens=tuple(sorted(self.reasons)),
            endpoint=None if self._subscription is None else self._subscription.endpoint,
            problem=None if self._subscription is None else self._subscription.problem,
            ignored_for=max(self._removals.ignored_until - self.clock.monotonic(), 0.0),
            removed=self.removed,
            confirmed=self.confirmed,
            false=self.false,
        )

    def subscribed(self, outcome: EarlySubscription) -> None:
        """Record whether the session has pre-confirmed events."""
        before, self._subscription = self._subscription, outcome
        if outcome.problem is not None and outcome != before:
            self.publish(EarlyUnavailable(outcome.endpoint, outcome.problem))

    def announced(self, hint: Preconfirmed, follower: Follower) -> frozenset[TokenId]:
        """Take a hint; returns the tokens that it removes."""
        newest = follower.newest
        if newest is None:
            return frozenset()
        now = self.clock.monotonic()
        found = self._removals.announced(hint, follower.registry, newest.number, now)
        self.removed += len(found)
        return found

    def advanced(self, step: Advanced) -> frozenset[TokenId]:
        """Compare with a step of the chain; returns the tokens whose early removal has ended."""
        return self._take(self._removals.advanced(step, self.clock.monotonic()))

    def expire(self, follower: Follower) -> frozenset[TokenId]:
        """End the early removals whose deadline has passed; returns their tokens."""
        return self._take(self._removals.expire(follower.registry, self.clock.monotonic()))

    def _take(self, ended: Ended) -> frozenset[TokenId]:
        self.confirmed += len(ended.confirmed)
        self.false += len(ended.false)
        if ended.false:
            self.publish(EarlyRemovalFalse(len(ended.false), min(ended.false)))
        return ended.tokens
