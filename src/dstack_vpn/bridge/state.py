"""What the chain's sessions share, and what outlives each of them."""

import asyncio
from dataclasses import dataclass, field
from typing import Final

import structlog

from dstack_vpn.bridge.members import Members
from dstack_vpn.core.chain_happenings import EndpointLost, EndpointUsed
from dstack_vpn.core.commands import Advanced
from dstack_vpn.core.follower import Follower
from dstack_vpn.core.health import Facts, clock_problem
from dstack_vpn.core.histogram import Histogram
from dstack_vpn.core.lag import Lag
from dstack_vpn.core.model import BlockRef, TokenId
from dstack_vpn.errors import ChainError
from dstack_vpn.ports import Announce, Clock, nobody

_log = structlog.get_logger(component="chain")


@dataclass(frozen=True, slots=True)
class Began:
    """The registry was read anew, or more of it has become final: what is stored can be replaced."""


REORG_DEPTHS: Final = (1, 2, 3, 5, 8, 16, 32, 64, 128)


@dataclass(slots=True)
class ChainState:
    """What outlives a session."""

    members: Members
    facts: Facts
    clock: Clock
    audit_interval: float
    """Seconds between full comparisons with the contract."""
    changed: asyncio.Queue[Advanced | Began]
    """Told of what is to be stored."""
    announce: Announce = nobody
    lag: Lag = field(default_factory=Lag)
    """How far we are behind what endpoints show."""
    discredited: bool = False
    """Whether our blocks were found to be made up, so that the next session has to read everything."""
    fresh: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when another endpoint is followed, or the same one again."""
    reorgs: int = 0
    reorg_depths: Histogram = field(default_factory=lambda: Histogram(REORG_DEPTHS))
    """In blocks."""
    audits: int = 0
    events: int = 0
    confirmed: int = 0
    """Events that have become final in this process."""
    audited_to: int = 0
    """The height up to which logs were compared."""
    unread: set[TokenId] = field(default_factory=set)
    """Tokens whose events leave open what they are now, and that have not been read since."""

    @property
    def follower(self) -> Follower:
        """The state machine that all sessions drive."""
        return self.members.follower

    def connected(self, name: str) -> None:
        """The registry is what the endpoint ``name`` says it is."""
        if self.facts.chain_problem is not None or self.facts.endpoint != name:
            self.facts.chain_since = self.clock.now()
            self.fresh.set()
            self.announce(EndpointUsed(name))
        self.facts.endpoint, self.facts.chain_problem = name, None
        if self.members.quorum is None:
            self.members.confirmed()  # else the jury says when

    def saw(self, head: BlockRef) -> None:
        """The endpoint's newest block; its time tells how our clock goes."""
        facts, now = self.facts, self.clock.now()
        facts.head, facts.head_seen = head.number, now
        problem = clock_problem(now - head.timestamp, paced=facts.paced) if head.timestamp else None
        if problem is not None and facts.clock_problem is None:
            _log.warning("chain.clock_off", problem=problem)
        facts.clock_problem = problem

    def down(self, error: ChainError) -> None:
        """There is no endpoint to follow now."""
        if self.facts.chain_problem is None:
            self.facts.chain_since = self.clock.now()
            self.announce(EndpointLost(str(error)))
        self.facts.chain_problem, self.facts.endpoint = str(error), None
