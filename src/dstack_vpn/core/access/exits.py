"""The choice of an exit: the node by which everything leaves, of those that EXIT_NODE names.

A name that can't be used changes nothing: the next one is tried. If no name can be used, nothing
leaves. `GatewayChoice` decides between several that can be used, by their order in the setting.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from dstack_vpn.core.access.control import AccessControl, Reason
from dstack_vpn.core.access.gateways import GatewayChoice
from dstack_vpn.core.access.roles import Standing
from dstack_vpn.core.model import Cidr, TokenId
from dstack_vpn.core.wireguard.keys import PublicKey

DEFAULTS: Final[Mapping[int, Cidr]] = {4: "0.0.0.0/0", 6: "::/0"}
"""The default route of each IP version."""
NOT_PERMITTED: Final = "no grant of the policy has autogroup:internet as a destination for this node"


class ExitCandidate(NamedTuple):
    """A node that EXIT_NODE names."""

    name: str
    problem: str | None = None
    """The reason that it can't be used."""
    token: TokenId = 0
    key: PublicKey | None = None
    versions: frozenset[int] = frozenset()
    """The IP versions that it has."""


def exit_candidate(
    access: AccessControl, name: str, permits: Callable[[], bool], now: float
) -> ExitCandidate:
    """Judge a node as an exit of this node.

    ``permits`` returns whether the policies let this node use the internet; ``now`` is in Unix
    seconds.
    """
    decision = access.decide(name, now)
    node = decision.node
    if decision.reason is Reason.UNKNOWN or node is None:
        return ExitCandidate(name, "there is no such node")
    if decision.reason is Reason.OWN_KEY:
        return ExitCandidate(name, "it is this node")
    if node.via is not None:
        return ExitCandidate(name, "it is a client of a gateway, and forwards nothing")
    if not decision.granted and decision.reason is not Reason.NO_GRANT:
        return ExitCandidate(name, f"it is not on the network: {decision}")
    versions = frozenset(version for version, route in DEFAULTS.items() if route in decision.routes)
    if not versions:
        return ExitCandidate(name, "it is not an exit: its routes have neither 0.0.0.0/0 nor ::/0")
    if not permits():
        return ExitCandidate(name, NOT_PERMITTED)
    if not decision.granted:
        return ExitCandidate(name, f"it is not a peer: {decision}")
    assert isinstance(node.public_key, PublicKey)
    return ExitCandidate(name, None, node.token_id, node.public_key, versions)


@dataclass(slots=True)
class ExitChoice:
    """The exit in use, of the nodes that EXIT_NODE names."""

    used: ExitCandidate | None = None
    """None: no node can be used, and nothing leaves."""
    _choice: GatewayChoice = field(default_factory=GatewayChoice, init=False)

    def choose(
        self,
        candidates: Sequence[ExitCandidate],
        standings: Mapping[PublicKey, Standing],
        now: float,
    ) -> ExitCandidate | None:
        """Choose among the candidates, the preferred ones first; ``now`` in monotonic seconds."""
        usable = {each.token: each for each in candidates if each.problem is None}
        found = {
            token: standings.get(each.key, Standing.UNJUDGED) if each.key else Standing.UNJUDGED
            for token, each in usable.items()
        }
        self._choice.observe(found, now)
        before = None if self.used is None else self.used.token
        self.used = usable[self._choice.next(list(usable), before, now)] if usable else None
        return self.used
