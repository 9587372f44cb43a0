"""The networks behind other nodes that this node uses, and the gateway of each.

The module is synchronous, like `Members`, which owns it. `RouteKeeper` brings the facts about this
host and about gateways that do not answer. The tunnel routes `networks` on the host.
"""

import asyncio
import ipaddress
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from dstack_vpn.core.access.control import AccessControl
from dstack_vpn.core.access.gateways import GatewayChoice
from dstack_vpn.core.access.roles import Standing
from dstack_vpn.core.addresses import parse_ip
from dstack_vpn.core.chain.node import Node
from dstack_vpn.core.model import Cidr, TokenId
from dstack_vpn.core.observe.events import NetworkLeft, NetworkReached, NetworkRefused
from dstack_vpn.core.observe.reports import RoutesReport
from dstack_vpn.core.paths.routes import AcceptRoutes, Surroundings
from dstack_vpn.core.wireguard.keys import PublicKey
from dstack_vpn.ports import Clock, Publish

NOT_PERMITTED: Final = "no grant of the policy has it as a destination for this node"
UNKNOWN: Final = "the routes of this host were not read yet"


class Offer(NamedTuple):
    """The networks behind a node that has access."""

    node_id: str | None
    key: PublicKey
    networks: tuple[Cidr, ...]


@dataclass(slots=True)
class Routes:
    """The networks that this node uses, kept current by `Members`."""

    accept: AcceptRoutes
    clock: Clock
    publish: Publish
    changed: Callable[[], None]
    """Called when the host's routes must be set again."""
    wanted: asyncio.Event = field(default_factory=asyncio.Event, init=False)
    """Set when the host must be surveyed."""
    offers: dict[TokenId, Offer] = field(default_factory=dict, init=False)
    choice: GatewayChoice = field(default_factory=GatewayChoice, init=False)
    gateways: dict[Cidr, list[TokenId]] = field(default_factory=dict, init=False)
    """The gateways of each network that is used."""
    unused: dict[Cidr, str] = field(default_factory=dict, init=False)
    """The accepted networks that are not used, with the reasons."""
    conflicts: dict[Cidr, str] = field(default_factory=dict, init=False)
    """Those of them that conflict with this host."""
    networks: frozenset[Cidr] | None = field(default=None, init=False)
    """The networks that the host routes into the tunnel; None: nothing was decided yet."""
    moves: int = field(default=0, init=False)
    """How often a network has moved to another gateway."""
    _is_due: bool = field(default=False, init=False)
    """Set while the host's routes differ from `networks`."""
    _around: Surroundings | None = field(default=None, init=False)
    _surveyed: frozenset[Cidr] = field(default=frozenset(), init=False)
    """The networks that the survey was about."""
    _refusals: dict[Cidr, str | None] = field(default_factory=dict, init=False)
    """The host's conflicts with networks, by `_around`."""
    _given: dict[Cidr, TokenId] = field(default_factory=dict, init=False)
    """The token of each network that was returned last."""

    def __post_init__(self) -> None:
        if not self.accept:
            self.networks = frozenset()

    # -- inputs ------------------------------------------------------------------------------------

    def surveyed(self, around: Surroundings, networks: Iterable[Cidr]) -> None:
        """Use other facts about the host, which are about these networks, from now on."""
        self._around, self._surveyed, self._refusals = around, frozenset(networks), {}

    def adopt(self, used: Mapping[Cidr, TokenId]) -> None:
        """Keep the gateways that an earlier process has used, as far as they still may be used."""
        if self.networks is None:
            self.choice.adopt(used)

    def follow(
        self,
        access: AccessControl,
        tokens: Iterable[TokenId],
        permits: Callable[[Cidr], bool],
        now: float,
        *,
        known: bool,
    ) -> dict[Cidr, TokenId | None]:
        """Decide again after changes of these tokens; returns the networks that move.

        ``permits`` returns whether the policies let this node send to a network, and ``now`` is in
        Unix seconds. While the members are not ``known`` or this node admits none at all,
        everything stays: packets to the networks must not leave outside of the tunnel.
        """
        if not self.accept:
            return {}
        for token in tokens:
            self._note_offer(access, token, now)
        if not known or access.admission.is_closed:
            return {}
        if self._around is None:
            self.wanted.set()
            return {}
        self._judge(access, permits, now)
        if not self.accepted <= self._surveyed:
            self.wanted.set()
        used, before = self.choice.used, self._given
        moves: dict[Cidr, TokenId | None] = {p: t for p, t in used.items() if before.get(p) != t}
        moves |= dict.fromkeys(before.keys() - used.keys())
        self._given = dict(used)
        self._publish(before, moves)
        if self.networks != used.keys():
            self.networks = frozenset(used)
            self._is_due = True
        return moves

    def applied(self) -> None:
        """Have the host's routes set again if they differ: the device has taken the last moves.

        The device comes first. Changes of routes would delay its reply by a few milliseconds.
        """
        if self._is_due:
            self._is_due = False
            self.changed()

    def has_to_move(self, standings: Mapping[TokenId, Standing]) -> bool:
        """Record the states of the contested gateways; return whether a network has to move."""
        now = self.clock.monotonic()
        self.choice.observe(standings, now)
        self.choice.choose(self.gateways, now)
        return self.choice.used != self._given

    # -- readers -----------------------------------------------------------------------------------

    @property
    def accepted(self) -> frozenset[Cidr]:
        """The networks behind all nodes that the setting includes."""
        offered = (network for offer in self.offers.values() for network in offer.networks)
        return frozenset(filter(self.accept.includes, offered))

    def contested(self) -> set[TokenId]:
        """Return the gateways of all networks that have several."""
        return {token for tokens in self.gateways.values() if len(tokens) > 1 for token in tokens}

    def note_endpoint(self, address: str) -> None:
        """Have the host surveyed if a peer's new endpoint is in a network that is used."""
        ip = parse_ip(address) if self._given else None
        if ip is not None and any(ip in ipaddress.ip_network(network) for network in self._given):
            self.wanted.set()

    def report(self) -> RoutesReport | None:
        """Report for health; None if no networks are accepted."""
        return RoutesReport(len(self._given), dict(self.conflicts)) if self.accept else None

    def describe(self) -> Iterator[dict[str, Any]]:
        """Yield the accepted networks, in JSON types."""
        for network in sorted({*self._given, *self.unused}):
            token = self._given.get(network)
            yield {
                "network": network,
                "token": token,
                "node_id": None if token is None else self._name(token),
                "gateways": [self._name(each) for each in sorted(self.gateways.get(network, ()))],
                "problem": self.unused.get(network),
            }

    # -- helpers -----------------------------------------------------------------------------------

    def _note_offer(self, access: AccessControl, token: TokenId, now: float) -> None:
        self.offers.pop(token, None)
        node = access.registry.get(token)
        if node is None or not node.routes or node.via is not None:
            return
        decision = access.decide(token, now)
        if decision.granted and decision.routes and isinstance(node.public_key, PublicKey):
            self.offers[token] = Offer(_name_of(node), node.public_key, decision.routes)

    def _judge(self, access: AccessControl, permits: Callable[[Cidr], bool], now: float) -> None:
        own = frozenset(access.decide(access.own_key, now).routes)
        gateways: dict[Cidr, list[TokenId]] = {}
        for token, offer in self.offers.items():
            for network in filter(self.accept.includes, offer.networks):
                gateways.setdefault(network, []).append(token)
        before, self.unused, self.conflicts = self.conflicts, {}, {}
        for network in list(gateways):
            problem = "this node leads to it itself" if network in own else None
            if problem is None and not permits(network):
                problem = NOT_PERMITTED
            if problem is None and network not in self._surveyed:
                problem = UNKNOWN
            if problem is None and (problem := self._conflict(network)) is not None:
                self.conflicts[network] = problem
                if before.get(network) != problem:
                    self.publish(NetworkRefused(network, problem))
            if problem is not None:
                self.unused[network] = problem
                del gateways[network]
        self.gateways = gateways
        self.choice.choose(gateways, self.clock.monotonic())

    def _conflict(self, network: Cidr) -> str | None:
        if network not in self._refusals and self._around is not None:
            self._refusals[network] = self._around.refusal(network)
        return self._refusals[network]

    def _publish(self, before: Mapping[Cidr, TokenId], moves: Mapping[Cidr, TokenId | None]) -> None:
        for network, token in sorted(moves.items()):
            former = None if (last := before.get(network)) is None else self._name(last)
            if token is not None:
                self.moves += last is not None
                self.publish(NetworkReached(network, token, self._name(token), former))
            else:
                reason = self.unused.get(network, "no node that leads to it has access")
                self.publish(NetworkLeft(network, former, reason))

    def _name(self, token: TokenId) -> str | None:
        offer = self.offers.get(token)
        return f"token {token}" if offer is None or offer.node_id is None else offer.node_id


def _name_of(node: Node) -> str | None:
    return node.node_id if isinstance(node.node_id, str) else None
