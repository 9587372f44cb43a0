"""Early removals: tokens that are out because of events in blocks that are not confirmed yet.

Some endpoints announce the logs of a block before the block is final in itself (pre-confirmed
logs). An event that takes a token's key off the network removes the token's peer at once. It is
only a hint, and changes neither the registry nor other tokens.

    pre-confirmed event                 effect
    it ends the use of a token's key    the token is out
    any other, such as a grant          none: a hint never gives access
    its block is not above our chain    none: the chain shows the event itself

    the token is out until              and then
    the chain has the event             the registry decides, in the same step
    our tip is `PASSED` blocks above    the token is back, and the hint was false
    `DEADLINE` has passed               the same

After a false hint, all hints are ignored for `PAUSE`. So an endpoint that invents events keeps a
token out for less than two deadlines in that time: one for an event, and one for another event that
was announced before the first had failed.

Access with early removals is never more than without them, and it is the same if no token is out.
"""

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from dstack_vpn.core.access.replies import in_force
from dstack_vpn.core.chain.commands import Advanced
from dstack_vpn.core.chain.events import (
    Granted,
    KeyUpdated,
    OwnerKeyUpdated,
    RegistryEvent,
    Revoked,
    Transferred,
    token_of,
)
from dstack_vpn.core.chain.node import Node
from dstack_vpn.core.chain.registry import Registry
from dstack_vpn.core.model import TokenId

PASSED: Final = 5
"""Blocks of our tip above a hint's block after which the event does not come any more."""
DEADLINE: Final = 30.0
"""Seconds for which a hint counts at most: twice the default interval of polled heads."""
PAUSE: Final = 3600.0
"""Seconds for which hints are ignored after a false one."""
MOST: Final = 8
"""Hints about one token; further ones are ignored."""


@dataclass(frozen=True, slots=True)
class Preconfirmed:
    """An event of a block that is not confirmed yet."""

    event: RegistryEvent
    block: int | None
    """The number of the block; None: the endpoint does not name it."""


@dataclass(frozen=True, slots=True)
class EarlySubscription:
    """The outcome of the subscription to pre-confirmed events in a session."""

    endpoint: str
    problem: str | None
    """The reason that the endpoint announces none."""


_WORDS: Final[Mapping[type[RegistryEvent], str]] = {
    Granted: "another key",
    Revoked: "revocation",
    Transferred: "transfer",
    KeyUpdated: "another key",
    OwnerKeyUpdated: "another key",
}
"""The events that can end the use of a key, in words."""


class _Hint(NamedTuple):
    """The block of an event, and the time at which it stops counting."""

    block: int | None
    ends: float


class Ended(NamedTuple):
    """The tokens whose early removal has ended."""

    confirmed: frozenset[TokenId] = frozenset()
    """The chain has the events."""
    false: frozenset[TokenId] = frozenset()
    """The chain does not have one of the events."""

    @property
    def tokens(self) -> frozenset[TokenId]:
        """All of them."""
        return self.confirmed | self.false


@dataclass(slots=True)
class EarlyRemovals:
    """The tokens that are out, with the hints about each. Times are monotonic seconds."""

    reasons: dict[TokenId, str] = field(default_factory=dict, init=False)
    """The first event about each token that is out, in words."""
    ignored_until: float = field(default=-math.inf, init=False)
    """The end of the pause after a false hint."""
    _hints: dict[TokenId, dict[RegistryEvent, _Hint]] = field(default_factory=dict, init=False)
    _false: set[TokenId] = field(default_factory=set, init=False)
    """The tokens that are out about which a hint was false."""

    def announced(
        self, hint: Preconfirmed, registry: Registry, height: int, now: float
    ) -> frozenset[TokenId]:
        """Take a hint; returns the tokens that it removes.

        ``height`` is that of the newest block of which events are in the registry.
        """
        is_late = hint.block is not None and hint.block <= height
        if now < self.ignored_until or is_late or type(hint.event) not in _WORDS:
            return frozenset()
        removed = set()
        for token in _concerned(registry, hint.event):
            hints = self._hints.get(token, {})
            if len(hints) >= MOST or hint.event in hints or not ends_key(registry.get(token), hint.event):
                continue
            self._hints[token] = hints | {hint.event: _Hint(hint.block, now + DEADLINE)}
            if token not in self.reasons:
                self.reasons[token] = _words(hint)
                removed.add(token)
        return frozenset(removed)

    def advanced(self, step: Advanced, now: float) -> Ended:
        """Compare the hints with a step of the chain; returns what has ended."""
        if not self._hints:
            return Ended()
        events = {logged.event: logged.block_number for logged in step.added}
        for token in self._hints.keys() & set(step.tokens):
            node, hints = step.registry.get(token), self._hints[token]
            self._hints[token] = {
                event: hint
                for event, hint in hints.items()
                if ends_key(node, event) and events.get(event, -1) < (hint.block or 0)
            }
        tip = step.tip.number
        return self._end(
            step.registry, lambda hint: hint.block is not None and tip >= hint.block + PASSED, now
        )

    def expire(self, registry: Registry, now: float) -> Ended:
        """End the hints whose deadline has passed."""
        return self._end(registry, lambda hint: now >= hint.ends, now) if self._hints else Ended()

    def _end(self, registry: Registry, fails: Callable[[_Hint], bool], now: float) -> Ended:
        """Drop the hints that fail, and the tokens without a hint."""
        ended = set()
        for token, hints in self._hints.items():
            failed = [event for event, hint in hints.items() if fails(hint)]
            # The registry may have been read as a whole since.
            if any(ends_key(registry.get(token), event) for event in failed):
                self._false.add(token)
                self.ignored_until = now + PAUSE
            for event in failed:
                del hints[event]
            if not hints:
                ended.add(token)
        for token in ended:
            del self._hints[token], self.reasons[token]
        false = frozenset(ended & self._false)
        self._false -= ended
        return Ended(frozenset(ended) - false, false)


def ends_key(node: Node | None, event: RegistryEvent) -> bool:
    """Return whether an event of a token takes its present key off the network.

    It is what `core.chain.registry` would do. An owner may have thousands of tokens, so that a fold
    for each takes too long.
    """
    if node is None or not in_force(node):
        return False
    match event:
        case Revoked():
            return True
        case Transferred(_, recipient):
            return recipient != node.owner
        case KeyUpdated(_, key):
            return key != node.public_key
        case OwnerKeyUpdated(owner, key):
            return owner == node.owner and key != node.public_key
        case Granted(_, _, node_id, key):
            return not isinstance(node_id, str) or key != node.public_key
        case _:
            return False


def _concerned(registry: Registry, event: RegistryEvent) -> Collection[TokenId]:
    """Return the tokens that an event may change."""
    if isinstance(event, OwnerKeyUpdated):
        return registry.with_owner(event.owner)
    token = token_of(event)
    return () if token is None else (token,)


def _words(hint: Preconfirmed) -> str:
    where = "" if hint.block is None else f" in block {hint.block}"
    return f"{_WORDS[type(hint.event)]}{where}"
