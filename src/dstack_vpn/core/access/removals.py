"""The limit on removals that only the followed endpoint reports: half of the peers within an hour.

A limit for each plan alone is passed in steps: 20 of 40 peers, 10 of 20, 5 of 10. So removals are
counted over time, against the most peers that there were in that time. Keys that replace removed
ones do not raise that number beyond the peak, so forged key changes count as the removals that they
are.

A removal that a second reading has confirmed is not counted. Neither is one whose peer is back. So
revocations at a slow pace never reach the limit, and faster ones cost a reading for each half of
the peers.
"""

from collections import deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from dstack_vpn.core.access.plan import too_many
from dstack_vpn.core.model import TokenId
from dstack_vpn.core.wireguard.keys import PublicKey

WINDOW: Final = 3600.0
"""Seconds for which an unconfirmed removal counts."""


@dataclass(frozen=True, slots=True)
class Gone:
    """A removal without confirmation by a second reading."""

    at: float
    """Monotonic seconds."""
    token: TokenId | None
    """The token of the peer."""


@dataclass(slots=True)
class Removals:
    """The unconfirmed removals that were applied, and the peak number of peers."""

    gone: dict[PublicKey, Gone] = field(default_factory=dict)
    _peaks: deque[tuple[float, int]] = field(default_factory=deque)
    """Times and numbers of peers, the numbers falling; the last time of each number."""

    def observe(self, peers: int, now: float) -> None:
        """Record the number of peers."""
        while self._peaks and self._peaks[-1][1] <= peers:
            self._peaks.pop()
        self._peaks.append((now, peers))
        while self._peaks[0][0] < now - WINDOW:
            self._peaks.popleft()
        self.gone = {key: gone for key, gone in self.gone.items() if gone.at >= now - WINDOW}

    def forget(self, keys: Iterable[PublicKey]) -> None:
        """Drop the removals that were confirmed or undone."""
        for key in keys:
            self.gone.pop(key, None)

    def exceed(self, keys: Collection[PublicKey]) -> bool:
        """Return whether these removals would exceed half of the peers."""
        most = max((peers for _, peers in self._peaks), default=0)
        return bool(keys) and too_many(len(self.gone.keys() | keys), most)

    def let_go(self, tokens: Mapping[PublicKey, TokenId | None], now: float) -> None:
        """Record the unconfirmed removal of these peers."""
        for key, token in tokens.items():
            self.gone.setdefault(key, Gone(now, token))
