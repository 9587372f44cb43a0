"""The choice of a gateway for each network that several nodes lead to.

    used gateway          other gateways                     used next
    alive                 a lower token, alive for `RETURN`  that one: the network returns
    alive                 others                             the same
    silent                one is alive                       the lowest token that is alive
    silent                none is alive, some are unjudged   the lowest token that is unjudged
    unjudged for `GRACE`  one is alive                       the lowest token that is alive
    silent or unjudged    others                             the same
    without access        any                                the lowest token that does not fail

A gateway is used by lowest token id, so that all members that see the same use the same one. It
must have been alive for a while before a network returns to it. A network therefore moves twice in
`RETURN` at most, however often its gateway comes and goes. A network whose gateways are all silent
stays: it leads nowhere then, and never out of the tunnel.

Times are monotonic seconds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from dstack_vpn.core.access.roles import Standing
from dstack_vpn.core.model import Cidr, TokenId

RETURN: Final = 30.0
"""Seconds for which a gateway must have been alive before a network returns to it."""
GRACE: Final = 3.0
"""Seconds after which a gateway that was sent something should be alive."""


@dataclass(slots=True)
class GatewayChoice:
    """The gateway in use for each network."""

    used: dict[Cidr, TokenId] = field(default_factory=dict)
    _standings: dict[TokenId, tuple[Standing, float]] = field(default_factory=dict, init=False)
    """The state of each gateway, and the time since which it has it."""

    def adopt(self, used: Mapping[Cidr, TokenId]) -> None:
        """Begin with these gateways, as far as they may still be used at the next choice."""
        self.used = dict(used)

    def observe(self, standings: Mapping[TokenId, Standing], now: float) -> None:
        """Record the state of every gateway."""
        before = self._standings
        self._standings = {
            token: found if (found := before.get(token)) and found[0] is standing else (standing, now)
            for token, standing in standings.items()
        }

    def choose(self, gateways: Mapping[Cidr, Sequence[TokenId]], now: float) -> None:
        """Choose again for these networks; all others are not used any more.

        ``gateways`` has the tokens that may be used, one at least for each network.
        """
        self.used = {
            prefix: self._next(sorted(tokens), self.used.get(prefix), now)
            for prefix, tokens in gateways.items()
        }

    def _next(self, tokens: list[TokenId], used: TokenId | None, now: float) -> TokenId:
        if used is None or used not in tokens:
            return next((token for token in tokens if not self._fails(token, now)), tokens[0])
        if not self._fails(used, now):
            lower = (token for token in tokens if token < used)
            return next((token for token in lower if self._is_steady(token, now)), used)
        better = [Standing.ALIVE]
        if self._standing(used)[0] is Standing.SILENT:
            better.append(Standing.UNJUDGED)
        found = (token for state in better for token in tokens if self._standing(token)[0] is state)
        return next(found, used)

    def _standing(self, token: TokenId) -> tuple[Standing, float]:
        return self._standings.get(token, (Standing.UNJUDGED, float("inf")))

    def _fails(self, token: TokenId, now: float) -> bool:
        standing, since = self._standing(token)
        return standing is Standing.SILENT or (standing is Standing.UNJUDGED and now - since >= GRACE)

    def _is_steady(self, token: TokenId, now: float) -> bool:
        standing, since = self._standing(token)
        return standing is Standing.ALIVE and now - since >= RETURN
