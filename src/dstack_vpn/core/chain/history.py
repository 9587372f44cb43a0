"""Registry events in the chain's order, on top of a final state.

Logs arrive in any order: two of one block swapped, one late, one again after a reconnect, or from a
block that a reorg then drops. `EventHistory` keeps the events above a base state and the change
that each of them made. It can therefore step back (`registry.revert`), insert an event at its
position or remove some, and step forward again. Any arrival order of the same events gives the same
state, and duplicates are ignored.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from dstack_vpn.core.chain.events import (
    ContractRead,
    LoggedEvent,
    PolicyRead,
    Reading,
    RegistryEvent,
    TokenState,
)
from dstack_vpn.core.chain.registry import Change, Registry, apply_all, revert, tokens_of
from dstack_vpn.core.model import END_OF_BLOCK, Position, TokenId


def position_of(logged: LoggedEvent) -> tuple[Position, int]:
    """Return the sort key of an event.

    It is the position on the chain, and the token for states read after one block. The readings
    of the contract itself come before them.
    """
    return Position(logged.block_number, logged.log_index), _rank(logged.event)


def _rank(event: RegistryEvent) -> int:
    match event:
        case TokenState(token):
            return token
        case PolicyRead():
            return -2
        case ContractRead():  # it keeps a text of its policy's hash, and drops any other policy
            return -1
        case _:
            return 0


def observed_at(block_number: int, block_hash: str, event: Reading) -> LoggedEvent:
    """Return a state after a block, as an event behind all of the block's logs."""
    return LoggedEvent(block_number, block_hash, END_OF_BLOCK, event)


@dataclass(slots=True)
class EventHistory:
    """The base state, the events above it, and the resulting state."""

    base: Registry = field(default_factory=Registry)
    state: Registry = field(init=False)
    _events: list[LoggedEvent] = field(default_factory=list, init=False)
    _changes: list[Change] = field(default_factory=list, init=False)
    """The change that each event made when it was applied, parallel to ``_events``."""
    _touched: set[TokenId] = field(default_factory=set, init=False)

    def __post_init__(self) -> None:
        self.state = self.base

    @property
    def events(self) -> tuple[LoggedEvent, ...]:
        """Return the events above the base, in order."""
        return tuple(self._events)

    def insert(self, events: Iterable[LoggedEvent]) -> list[LoggedEvent]:
        """Insert new events at their positions; returns those that were added, in order."""
        added = sorted((x for x in events if not self._holds(x)), key=position_of)
        if added:
            later = self._rewind(self._index(added[0]))
            # If two have one position (on another fork, or read again), the newer one counts.
            merged = {position_of(x): x for x in (*later, *added)}
            self._replay([merged[position] for position in sorted(merged)])
        return added

    def drop_above(self, block_number: int, keep: Callable[[LoggedEvent], bool]) -> list[LoggedEvent]:
        """Remove the events above that block, except those to ``keep``; returns the removed."""
        first = self._first_above(block_number)
        if all(keep(logged) for logged in self._events[first:]):
            return []
        later = self._rewind(first)
        self._replay([logged for logged in later if keep(logged)])
        return [logged for logged in later if not keep(logged)]

    def is_within(self, block_number: int) -> bool:
        """Return whether no event is above that block."""
        return not self._events or self._events[-1].block_number <= block_number

    def touched(self) -> frozenset[TokenId]:
        """Return the tokens that may have changed since the last call."""
        touched = frozenset(self._touched)
        self._touched.clear()
        return touched

    def settle(self, block_number: int) -> None:
        """Fold everything up to that block into the base; it can no longer be undone."""
        count = self._first_above(block_number)
        settled = [(position_of(x)[0], x.event) for x in self._events[:count]]
        self.base, _ = apply_all(self.base, settled)
        del self._events[:count], self._changes[:count]

    def _first_above(self, block_number: int) -> int:
        return bisect_right(self._events, block_number, key=lambda logged: logged.block_number)

    def _index(self, logged: LoggedEvent) -> int:
        return bisect_left(self._events, position_of(logged), key=position_of)

    def _holds(self, logged: LoggedEvent) -> bool:
        index = self._index(logged)
        return index < len(self._events) and self._events[index] == logged

    def _rewind(self, index: int) -> list[LoggedEvent]:
        """Undo the event at ``index`` and all after it; returns them, in order."""
        undone = self._events[index:]
        if undone:
            self._touch(self._changes[index:])
            self.state = revert(self.state, *self._changes[index:])
        del self._events[index:], self._changes[index:]
        return undone

    def _replay(self, events: list[LoggedEvent]) -> None:
        self.state, changes = apply_all(self.state, [(position_of(x)[0], x.event) for x in events])
        self._events += events
        self._changes += changes
        self._touch(changes)

    def _touch(self, changes: Iterable[Change]) -> None:
        self._touched.update(*map(tokens_of, changes))
