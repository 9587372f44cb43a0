"""The record of decisions: the last decision about each token, and the causes of a change.

A decision depends on the token, on the tokens that claim the same key, on the height of the chain
(confirmations), on the time (expiry), on the quorum and on the pin. `due` names the tokens that
height and time alone may have changed; the caller names the others. `update` then returns each
token whose decision differs from the last recorded one, so every change is recorded once, whatever
caused it.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from dstack_vpn.core.access.control import AccessControl, Decision, Reason
from dstack_vpn.core.model import TokenId

Standing: TypeAlias = tuple[bool, Reason, str]

_UNKNOWN: Final[Standing] = (False, Reason.UNKNOWN, "")


def standing(decision: Decision) -> Standing:
    """Return the part of a decision whose change is recorded, without confirmations."""
    detail = "" if decision.reason is Reason.UNCONFIRMED else decision.detail
    return decision.granted, decision.reason, detail


@dataclass(slots=True)
class DecisionRecord:
    """The last decision about each token. Times are Unix seconds, heights are block numbers."""

    _last: dict[TokenId, Standing] = field(default_factory=dict)
    _unconfirmed: set[TokenId] = field(default_factory=set)
    _ends: dict[TokenId, int] = field(default_factory=dict)
    """The end of the access of each token that has one, if it is still to come."""
    _height: int = 0

    @property
    def next_end(self) -> int | None:
        """Return the next moment at which a token expires; None if no token does."""
        return min(self._ends.values(), default=None)

    @property
    def waits_for_blocks(self) -> bool:
        """True if a grant waits for confirmations."""
        return bool(self._unconfirmed)

    def due(self, access: AccessControl, now: float) -> set[TokenId]:
        """Return the tokens whose decisions height or time may have changed since the update."""
        found = {token for token, end in self._ends.items() if end < now}
        before, self._height = self._height, access.height
        if access.height != before:
            found |= self._unconfirmed
        if access.height < before and access.confirmations:
            # A reorg to a lower head: tokens with just enough confirmations lack some again.
            newest = access.height - access.confirmations
            nodes = access.registry.nodes.items()
            found |= {token for token, node in nodes if node.key_since.block > newest}
        return found

    def answer(self, token: TokenId) -> Reason:
        """Return the reason of the last recorded decision about a token."""
        return self._last.get(token, _UNKNOWN)[1]

    def refused(self, tokens: Iterable[TokenId], reason: Reason) -> Iterator[tuple[TokenId, str]]:
        """Yield those of the tokens that were refused for this reason, each with the detail."""
        for token in tokens:
            _, found, detail = self._last.get(token, _UNKNOWN)
            if found is reason:
                yield token, detail

    def begin(self, access: AccessControl, now: float) -> None:
        """Mark the decisions over a restored registry as recorded: an earlier process did so."""
        self.update(access, {*access.registry.nodes, *self.due(access, now)}, now)

    def update(
        self, access: AccessControl, tokens: Iterable[TokenId], now: float
    ) -> list[tuple[TokenId, Decision]]:
        """Decide about these tokens; returns the changes."""
        changed = []
        for token in sorted(set(tokens)):
            decision = access.decide(token, now)
            self._watch(token, decision, now)
            found = standing(decision)
            if self._last.get(token, _UNKNOWN) != found:
                changed.append((token, decision))
                self._remember(token, found)
        return changed

    def _watch(self, token: TokenId, decision: Decision, now: float) -> None:
        """Remember whether height or time will change this decision."""
        if decision.reason is Reason.UNCONFIRMED:
            self._unconfirmed.add(token)
        else:
            self._unconfirmed.discard(token)
        end = decision.ends or (0 if decision.node is None else decision.node.expires_at)
        if end and end >= now:
            self._ends[token] = end
        else:
            self._ends.pop(token, None)

    def _remember(self, token: TokenId, found: Standing) -> None:
        if found == _UNKNOWN:
            self._last.pop(token, None)
        else:
            self._last[token] = found
