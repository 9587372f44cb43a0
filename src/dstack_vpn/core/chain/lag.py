"""The lag behind the newest block that any endpoint has shown.

The followed endpoint alone cannot show the lag: it may announce any block. The blocks of every
endpoint therefore count, and the lag is the time since the first block above our tip was shown. If
an endpoint claims a block that does not exist, that time grows without end; `overdue` names that
endpoint.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from dstack_vpn.core.model import BlockRef

BOUND: Final = 45.0
"""Seconds of lag after which another endpoint is followed."""
WORTH_A_LOOK: Final = 15.0
"""Seconds of lag from which health reports it."""
MOST: Final = 1024
"""Blocks that are kept for each endpoint."""


@dataclass(slots=True)
class Lag:
    """The blocks above our tip that endpoints have shown, with times in monotonic seconds."""

    _shown: dict[str, deque[tuple[int, float]]] = field(default_factory=dict)
    """Heights and times of each endpoint, both ascending."""
    _newest: dict[str, int] = field(default_factory=dict)
    """The height that each endpoint showed last."""
    _stood: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=MOST))
    """The heights of our tip and the times at which they began, both ascending."""

    def shown(self, endpoint: str, height: int, now: float) -> None:
        """Record a block that an endpoint shows."""
        self._newest[endpoint] = height
        claims = self._shown.setdefault(endpoint, deque())
        if claims and height <= claims[-1][0]:
            return
        if len(claims) >= MOST:
            claims[-1] = height, claims[-1][1]
        else:
            claims.append((height, now))

    def void(self, endpoint: str) -> None:
        """Forget the blocks that an endpoint has shown: it could not deliver them."""
        self._shown.pop(endpoint, None)
        self._newest.pop(endpoint, None)

    def stands(self, tip: BlockRef, now: float) -> None:
        """Record our tip."""
        while self._stood and self._stood[-1][0] > tip.number:
            self._stood.pop()
        if not self._stood or self._stood[-1][0] < tip.number:
            self._stood.append((tip.number, now))

    def is_stale(self, endpoint: str, head: BlockRef, tip: BlockRef, now: float) -> bool:
        """Return whether our tip passed an endpoint's head long ago and another endpoint has it.

        Such a head does not show a reorg to a shorter chain, and must not undo anything.
        """
        above = next((since for height, since in self._stood if height > head.number), now)
        others = any(height >= tip.number for name, height in self._newest.items() if name != endpoint)
        return others and head.number < tip.number and now - above > WORTH_A_LOOK

    def behind(self, tip: BlockRef | None, now: float) -> tuple[float, int]:
        """Return the seconds and the blocks that we are behind at this tip; zeros if we are not."""
        if tip is None:
            return 0.0, 0
        self._forget(tip.number)
        ahead = [claims for claims in self._shown.values() if claims]
        if not ahead:
            return 0.0, 0
        return now - min(claims[0][1] for claims in ahead), max(x[-1][0] for x in ahead) - tip.number

    def overdue(self, tip: BlockRef, now: float) -> dict[str, int]:
        """Return the endpoints with a block above our tip for over `BOUND`, and its height."""
        self._forget(tip.number)
        return {
            name: claims[0][0]
            for name, claims in self._shown.items()
            if claims and now - claims[0][1] > BOUND
        }

    def _forget(self, height: int) -> None:
        for claims in self._shown.values():
            while claims and claims[0][0] <= height:
                claims.popleft()
