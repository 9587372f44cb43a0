"""A seeded adversary, which observes the node and controls the hostile endpoints."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random
from typing import Final

from tests.scripted import key
from tests.simulation.chain import OWNER, TOKENS, Chain
from tests.simulation.endpoints import FOREVER, Conduct, SimulatedEndpoint

from dstack_vpn.core.access.replies import routes_of
from dstack_vpn.core.chain.contract import Policy
from dstack_vpn.core.chain.events import (
    EndpointUpdated,
    Granted,
    KeyUpdated,
    PolicyUpdated,
    Revoked,
    RoutesUpdated,
    TagDefined,
    TagsUpdated,
)
from dstack_vpn.core.chain.node import Node
from dstack_vpn.core.model import Endpoint
from dstack_vpn.core.paths.peer_endpoint import PeerEndpoint

FORGED = range(200, 206)
"""The numbers of keys that no member ever had."""
FORGED_TAG: Final = 1 << 8
FORGED_ROUTE: Final = "203.0.113.0/24"
"""A tag and a route that no token ever has."""
FORGED_POLICY: Final = "0x" + "f" * 64
FORGED_NAME: Final = "forged"
"""The hash of a policy, and a name, that the contract never has."""
METHODS = (
    "head",
    "extension",
    "header",
    "finalized",
    "events",
    "read_tokens",
    "read_all",
    "revision",
    "connect",
)


def honest(random: Random, *, polls: bool) -> Conduct:
    """Return the conduct of an honest endpoint, which may be slow or late; ``polls`` is a field."""
    delay = random.choice([0.01, 0.05, 0.3, 1.0, 2.5])
    slow = {method: delay * random.choice([1, 1, 3]) for method in ("events", "read_all")}
    lag = random.choice([0.0, 0.0, 1.0, 5.0])
    announces = random.random() < 0.7
    late = random.choice([0.0, 1.0, 5.0]) if polls else 0.0
    return Conduct(delay=delay, delays=slow, lag=lag, announces=announces, polls=polls, late=late)


@dataclass
class Adversary:
    """Controls the hostile endpoints: in half of the runs by one campaign, else by random moves."""

    random: Random
    chain: Chain
    hostile: list[SimulatedEndpoint]
    campaign: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.campaign = self.random.choice(CAMPAIGNS) if self.random.random() < 0.5 else ()

    @property
    def may_forge_blocks(self) -> bool:
        """Return whether the node can be led to blocks that are not in the chain."""
        return not self.campaign or bool({"keep_lead", "stay_on_fork"}.intersection(self.campaign))

    def act(self, followed: str | None) -> None:
        """Choose a conduct for each hostile endpoint; ``followed`` is the node's endpoint."""
        for endpoint in self.hostile:
            if self.campaign:
                for move in self.campaign:
                    MOVES[move](self, endpoint)
            else:
                self._improvise(endpoint, is_followed=endpoint.name == followed)

    def _improvise(self, endpoint: SimulatedEndpoint, *, is_followed: bool) -> None:
        random = self.random
        if random.random() < 0.25:
            # Back to honest conduct.
            endpoint.conduct = Conduct(announces=endpoint.conduct.announces, polls=endpoint.conduct.polls)
        else:
            endpoint.conduct = replace(endpoint.conduct, lead=0, raises=frozenset())
        known = AS_FOLLOWED if is_followed or random.random() < 0.3 else AS_VERIFIER
        for move in random.sample(known, random.choice([1, 2])):
            MOVES[move](self, endpoint)

    def _hide(self, endpoint: SimulatedEndpoint) -> None:
        """Show tokens in their present state from now on."""
        state = endpoint.head().state
        for token in self.random.sample(list(TOKENS), 2):
            endpoint.conduct.hides.add(token)
            endpoint.conduct.overlay[token] = state.get(token)

    def _keep_revision(self, endpoint: SimulatedEndpoint) -> None:
        """Report the present revision from now on: nothing seems to change."""
        if endpoint.conduct.revision is None:
            endpoint.conduct.revision = endpoint.revision_of(endpoint.head())

    def _stall(self, endpoint: SimulatedEndpoint) -> None:
        """Delay some methods, or do not reply to them."""
        for method in self.random.sample(METHODS, self.random.choice([1, 2, 3])):
            endpoint.conduct.delays[method] = self.random.choice([6.0, 9.0, 20.0, 28.0, FOREVER])

    def _skip(self, endpoint: SimulatedEndpoint) -> None:
        endpoint.conduct.skips = self.random.choice([2, 3, 10])
        endpoint.conduct.delays["events"] = self.random.choice([3.0, 6.0, 20.0])

    def _flip(self, endpoint: SimulatedEndpoint) -> None:
        """Change tokens repeatedly, without an end of their access."""
        for token in self.random.sample(list(TOKENS), 2):
            peer_endpoint = PeerEndpoint(udp=Endpoint("192.0.2.9", self.random.randrange(1, 99)))
            endpoint.conduct.forged.append(EndpointUpdated(token, peer_endpoint))

    def _forge_grant(self, endpoint: SimulatedEndpoint) -> None:
        token, number = self.random.choice([*TOKENS, 9]), self.random.choice(FORGED)
        known = endpoint.head().state.get(token)
        endpoint.conduct.forged.append(
            Granted(token, OWNER, f"node-{token}", key(number))
            if known is None
            else KeyUpdated(token, key(number))
        )
        endpoint.conduct.overlay[token] = Node(token, OWNER, f"node-{token}", key(number))

    def _forge_rights(self, endpoint: SimulatedEndpoint) -> None:
        """Show a member with a tag and a route that it never had."""
        token = self.random.choice(list(TOKENS))
        known = endpoint.head().state.get(token)
        if known is None:
            return
        endpoint.conduct.forged += [
            TagsUpdated(token, known.tags | FORGED_TAG),
            RoutesUpdated(token, (*routes_of(known), FORGED_ROUTE)),
        ]
        endpoint.conduct.overlay[token] = replace(
            known, tags=known.tags | FORGED_TAG, routes=(*routes_of(known), FORGED_ROUTE)
        )

    def _forge_policy(self, endpoint: SimulatedEndpoint) -> None:
        """Show a policy, or names of tags, that the contract never had."""
        true = endpoint.head().state.contract
        if self.random.random() < 0.5:
            endpoint.conduct.forged.append(PolicyUpdated(FORGED_POLICY))
            endpoint.conduct.contract = replace(true, policy=Policy(FORGED_POLICY))
        else:
            endpoint.conduct.forged.append(TagDefined(len(true.tag_names), FORGED_NAME))
            endpoint.conduct.contract = replace(true, tag_names=(*true.tag_names, FORGED_NAME))

    def _hide_policy(self, endpoint: SimulatedEndpoint) -> None:
        """Show the present policy from now on."""
        endpoint.conduct.contract = endpoint.head().state.contract
        endpoint.conduct.hides.add(None)

    def _take_rights(self, endpoint: SimulatedEndpoint) -> None:
        """Show a member without its tags and routes."""
        token = self.random.choice(list(TOKENS))
        if (known := endpoint.head().state.get(token)) is not None:
            endpoint.conduct.forged += [TagsUpdated(token, 0), RoutesUpdated(token, ())]
            endpoint.conduct.overlay[token] = replace(known, tags=0, routes=())

    def _run_ahead(self, endpoint: SimulatedEndpoint) -> None:
        endpoint.conduct.ahead_only = self.random.random() < 0.5

    def _forge_revocation(self, endpoint: SimulatedEndpoint) -> None:
        token = self.random.choice(list(TOKENS))
        endpoint.conduct.forged.append(Revoked(token))
        endpoint.conduct.overlay[token] = None

    def _claim_lead(self, endpoint: SimulatedEndpoint) -> None:
        endpoint.conduct.lead = self.random.choice([1, 100, 10**9])

    def _toggle_freeze(self, endpoint: SimulatedEndpoint) -> None:
        endpoint.conduct.stuck = None if self.random.random() < 0.5 else endpoint.head()

    def _toggle_fork(self, endpoint: SimulatedEndpoint) -> None:
        """Continue with blocks that no other endpoint has, or return to the chain."""
        head = endpoint.head()
        if endpoint.conduct.fork is None and self.random.random() < 0.5:
            line = head.line[: head.ref.number + 1]
            endpoint.conduct.fork = [replace(head, line=line)]
            line[-1] = endpoint.conduct.fork[0]
        else:
            endpoint.conduct.fork = None

    def _fail(self, endpoint: SimulatedEndpoint) -> None:
        endpoint.conduct.raises = frozenset(self.random.sample(METHODS, 1))

    def _stall_resyncs(self, endpoint: SimulatedEndpoint) -> None:
        endpoint.conduct.delays |= {"read_all": FOREVER, "finalized": 9.0}

    def _keep_lead(self, endpoint: SimulatedEndpoint) -> None:
        endpoint.conduct.lead = 10**9

    def _freeze(self, endpoint: SimulatedEndpoint) -> None:
        endpoint.conduct.stuck = endpoint.conduct.stuck or endpoint.head()

    def _stay_on_fork(self, endpoint: SimulatedEndpoint) -> None:
        if endpoint.conduct.fork is None:
            self._toggle_fork(endpoint)


MOVES: Final[dict[str, Callable[[Adversary, SimulatedEndpoint], None]]] = {
    name: getattr(Adversary, f"_{name}")
    for name in (
        *(
            "hide",
            "stall",
            "skip",
            "flip",
            "forge_grant",
            "run_ahead",
            "forge_revocation",
            "forge_rights",
            "take_rights",
            "forge_policy",
            "hide_policy",
            "claim_lead",
            "toggle_freeze",
        ),
        *("toggle_fork", "fail", "stall_resyncs", "keep_lead", "freeze", "stay_on_fork", "keep_revision"),
    )
}
AS_FOLLOWED: Final = (
    "hide",
    "keep_revision",
    "stall",
    "skip",
    "flip",
    "forge_grant",
    "forge_rights",
    "forge_policy",
    "hide_policy",
    "run_ahead",
)
AS_VERIFIER: Final = (
    "keep_revision",
    "forge_revocation",
    "forge_rights",
    "take_rights",
    "forge_policy",
    "claim_lead",
    "stall",
    "toggle_freeze",
    "toggle_fork",
    "fail",
)
CAMPAIGNS: Final = (
    ("hide", "stall_resyncs"),
    ("hide", "skip"),
    ("hide", "flip"),
    ("hide", "keep_revision"),
    ("keep_revision", "forge_revocation"),
    ("freeze",),
    ("freeze", "stall_resyncs"),
    ("keep_lead",),
    ("keep_lead", "hide"),
    ("stay_on_fork",),
    ("forge_grant", "hide"),
    ("run_ahead", "hide"),
    ("forge_rights", "hide"),
    ("take_rights", "freeze"),
    ("forge_policy", "hide"),
    ("hide_policy", "stall_resyncs"),
)
"""Combinations of moves, including those of the red team."""
