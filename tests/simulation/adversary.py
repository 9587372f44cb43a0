"""A seeded adversary: it sees what the node does, and has its endpoints do the worst that it knows."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random
from typing import Final

from tests.scripted import key
from tests.simulation.chain import OWNER, TOKENS, Chain
from tests.simulation.endpoints import FOREVER, Conduct, SimulatedEndpoint

from dstack_vpn.core.chain.events import EndpointUpdated, Granted, KeyUpdated, Revoked
from dstack_vpn.core.chain.node import Node
from dstack_vpn.core.model import Endpoint
from dstack_vpn.core.paths.peer_endpoint import PeerEndpoint

FORGED = range(200, 206)
"""Numbers of keys that no member ever had."""
METHODS = ("head", "header", "finalized", "events", "read_tokens", "read_all", "connect")


def honest(random: Random) -> Conduct:
    """An honest endpoint: quick or slow, up to date or late."""
    delay = random.choice([0.01, 0.05, 0.3, 1.0, 2.5])
    slow = {method: delay * random.choice([1, 1, 3]) for method in ("events", "read_all")}
    lag = random.choice([0.0, 0.0, 1.0, 5.0])
    return Conduct(delay=delay, delays=slow, lag=lag, announces=random.random() < 0.7)


@dataclass
class Adversary:
    """The liars' common will: in half of the runs one campaign, else whatever comes to its mind."""

    random: Random
    chain: Chain
    liars: list[SimulatedEndpoint]
    campaign: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.campaign = self.random.choice(CAMPAIGNS) if self.random.random() < 0.5 else ()

    @property
    def may_make_up_blocks(self) -> bool:
        """Whether the node may be led to blocks that are not the chain's."""
        return not self.campaign or bool({"boast_for_ever", "stay_astray"}.intersection(self.campaign))

    def act(self, followed: str | None) -> None:
        """Choose a conduct for each, knowing which endpoint the node follows."""
        for liar in self.liars:
            if self.campaign:
                for move in self.campaign:
                    MOVES[move](self, liar)
            else:
                self._improvise(liar, is_followed=liar.name == followed)

    def _improvise(self, liar: SimulatedEndpoint, *, is_followed: bool) -> None:
        random = self.random
        if random.random() < 0.25:
            liar.conduct = Conduct(announces=liar.conduct.announces)  # as if honest again
        else:
            liar.conduct = replace(liar.conduct, boast=0, raises=frozenset())
        known = AS_FOLLOWED if is_followed or random.random() < 0.3 else AS_WITNESS
        for move in random.sample(known, random.choice([1, 2])):
            MOVES[move](self, liar)

    def _hide(self, liar: SimulatedEndpoint) -> None:
        """Keep tokens as they are now, whatever becomes of them."""
        state = liar.head().state
        for token in self.random.sample(list(TOKENS), 2):
            liar.conduct.hides.add(token)
            liar.conduct.overlay[token] = state.get(token)

    def _stall(self, liar: SimulatedEndpoint) -> None:
        """Be slow, or silent, in some methods."""
        for method in self.random.sample(METHODS, self.random.choice([1, 2, 3])):
            liar.conduct.delays[method] = self.random.choice([6.0, 9.0, 20.0, 28.0, FOREVER])

    def _skip(self, liar: SimulatedEndpoint) -> None:
        liar.conduct.skips = self.random.choice([2, 3, 10])
        liar.conduct.delays["events"] = self.random.choice([3.0, 6.0, 20.0])

    def _flip(self, liar: SimulatedEndpoint) -> None:
        """Keep tokens changing, in ways that don't end their access."""
        for token in self.random.sample(list(TOKENS), 2):
            peer_endpoint = PeerEndpoint(udp=Endpoint("192.0.2.9", self.random.randrange(1, 99)))
            liar.conduct.forged.append(EndpointUpdated(token, peer_endpoint))

    def _forge_grant(self, liar: SimulatedEndpoint) -> None:
        token, number = self.random.choice([*TOKENS, 9]), self.random.choice(FORGED)
        known = liar.head().state.get(token)
        liar.conduct.forged.append(
            Granted(token, OWNER, f"node-{token}", key(number))
            if known is None
            else KeyUpdated(token, key(number))
        )
        liar.conduct.overlay[token] = Node(token, OWNER, f"node-{token}", key(number))

    def _run_ahead(self, liar: SimulatedEndpoint) -> None:
        liar.conduct.ahead_only = self.random.random() < 0.5

    def _forge_revocation(self, liar: SimulatedEndpoint) -> None:
        token = self.random.choice(list(TOKENS))
        liar.conduct.forged.append(Revoked(token))
        liar.conduct.overlay[token] = None

    def _boast(self, liar: SimulatedEndpoint) -> None:
        liar.conduct.boast = self.random.choice([1, 100, 10**9])

    def _stick(self, liar: SimulatedEndpoint) -> None:
        liar.conduct.stuck = None if self.random.random() < 0.5 else liar.head()

    def _go_astray(self, liar: SimulatedEndpoint) -> None:
        """Go on with blocks that nobody else has."""
        head = liar.head()
        if liar.conduct.fork is None and self.random.random() < 0.5:
            line = head.line[: head.ref.number + 1]
            liar.conduct.fork = [replace(head, line=line)]
            line[-1] = liar.conduct.fork[0]
        else:
            liar.conduct.fork = None

    def _fail(self, liar: SimulatedEndpoint) -> None:
        liar.conduct.raises = frozenset(self.random.sample(METHODS, 1))

    def _stall_audits(self, liar: SimulatedEndpoint) -> None:
        liar.conduct.delays |= {"read_all": FOREVER, "finalized": 9.0}

    def _boast_for_ever(self, liar: SimulatedEndpoint) -> None:
        liar.conduct.boast = 10**9

    def _stand_still(self, liar: SimulatedEndpoint) -> None:
        liar.conduct.stuck = liar.conduct.stuck or liar.head()

    def _stay_astray(self, liar: SimulatedEndpoint) -> None:
        if liar.conduct.fork is None:
            self._go_astray(liar)


MOVES: Final[dict[str, Callable[[Adversary, SimulatedEndpoint], None]]] = {
    name: getattr(Adversary, f"_{name}")
    for name in (
        *("hide", "stall", "skip", "flip", "forge_grant", "run_ahead", "forge_revocation", "boast", "stick"),
        *("go_astray", "fail", "stall_audits", "boast_for_ever", "stand_still", "stay_astray"),
    )
}
AS_FOLLOWED: Final = ("hide", "stall", "skip", "flip", "forge_grant", "run_ahead")
AS_WITNESS: Final = ("forge_revocation", "boast", "stall", "stick", "go_astray", "fail")
CAMPAIGNS: Final = (
    ("hide", "stall_audits"),
    ("hide", "skip"),
    ("hide", "flip"),
    ("stand_still",),
    ("stand_still", "stall_audits"),
    ("boast_for_ever",),
    ("boast_for_ever", "hide"),
    ("stay_astray",),
    ("forge_grant", "hide"),
    ("run_ahead", "hide"),
)
"""What the red team did, and worse."""
