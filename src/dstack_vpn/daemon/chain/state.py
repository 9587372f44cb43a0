"""The chain state that all sessions share and that outlives each of them."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from dstack_vpn.core.chain.commands import Advanced
from dstack_vpn.core.chain.follower import Follower
from dstack_vpn.core.chain.lag import Lag
from dstack_vpn.core.model import BlockRef, TokenId
from dstack_vpn.core.observe.events import EndpointFollowed, EndpointLost
from dstack_vpn.core.observe.health import clock_problem
from dstack_vpn.core.observe.reports import ChainReport
from dstack_vpn.daemon.peers.members import Members
from dstack_vpn.errors import ChainError
from dstack_vpn.ports import Clock, Publish

_log = structlog.get_logger(component="chain")


@dataclass(frozen=True, slots=True)
class Began:
    """A notice that the registry was read again or more of it is final.

    The store's content can then be replaced.
    """


@dataclass(slots=True)
class ChainState:
    """The state that outlives a session."""

    members: Members
    clock: Clock
    resync_interval: float
    """Seconds between full comparisons with the contract, as configured."""
    changed: asyncio.Queue[Advanced | Began]
    """The queue of changes to store."""
    publish: Publish
    until_resync: Callable[[float, float], float]
    """Returns the seconds until the next resync, from the seconds since the last one began and the
    configured interval. A budget of calls may exceed the interval."""
    head_interval: float = 0.0
    """Seconds between heads if they are queried; 0 if they are announced."""
    endpoint: str | None = field(default=None, init=False)
    """The followed RPC endpoint, or None."""
    problem: str | None = field(default="no endpoint has answered yet", init=False)
    """The reason that no endpoint is followed."""
    lag: Lag = field(default_factory=Lag)
    """The lag of our tip behind the endpoints' heads."""
    discredited: bool = False
    """Set when k endpoints lack our blocks: the next session has to read the whole registry."""
    fresh: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when another endpoint is followed, or the same one again."""
    reorgs: int = 0
    resyncs: int = 0
    events: int = 0
    confirmed: int = 0
    """Events that have become final in this process."""
    resynced_to: int = 0
    """The height of the last full reading, up to which the logs were compared."""
    unread: set[TokenId] = field(default_factory=set)
    """Tokens whose events do not determine their state, and that have not been read since."""
    _since: float | None = field(default=None, init=False)
    _head: BlockRef | None = field(default=None, init=False)
    _head_seen: float | None = field(default=None, init=False)
    _behind: tuple[float, int] = field(default=(0.0, 0), init=False)
    _clock_problem: str | None = field(default=None, init=False)

    @property
    def follower(self) -> Follower:
        """The state machine that all sessions drive."""
        return self.members.follower

    def report(self) -> ChainReport:
        """Report for health and metrics."""
        behind, blocks = self._behind
        return ChainReport(
            endpoint=self.endpoint,
            problem=self.problem,
            since=self._since,
            head=None if self._head is None else self._head.number,
            head_seen=self._head_seen,
            paced=self.members.paced,
            head_interval=self.head_interval,
            behind=behind,
            blocks_behind=blocks,
            clock_problem=self._clock_problem,
        )

    def connected(self, name: str) -> None:
        """Record that the endpoint ``name`` is followed from now on."""
        if self.problem is not None or self.endpoint != name:
            self._since = self.clock.now()
            self.fresh.set()
            self.publish(EndpointFollowed(name))
        self.endpoint, self.problem = name, None
        if self.members.quorum is None:
            self.members.confirmed()  # else a quorum has to confirm it

    def note_head(self, head: BlockRef) -> None:
        """Record the endpoint's newest block; its time shows whether our clock is right."""
        now = self.clock.now()
        self._head, self._head_seen = head, now
        problem = clock_problem(now - head.timestamp, paced=self.members.paced) if head.timestamp else None
        if problem is not None and self._clock_problem is None:
            _log.warning("chain.clock_off", problem=problem)
        self._clock_problem = problem

    def down(self, error: ChainError) -> None:
        """Record that no endpoint is followed, and the reason."""
        if self.problem is None:
            self._since = self.clock.now()
            self.publish(EndpointLost(str(error)))
        self.problem, self.endpoint = str(error), None

    def measure_lag(self) -> tuple[float, int]:
        """Return the seconds and blocks by which our tip is behind the endpoints' heads."""
        now, tip = self.clock.monotonic(), self.follower.tip
        if tip is not None:
            self.lag.stands(tip, now)
        self._behind = self.lag.behind(tip, now)
        return self._behind

    def needs_heads(self) -> bool:
        """Return whether something waits for the next blocks."""
        waits = bool(self.follower.open_tokens()) or self.members.decisions.waits_for_blocks
        return self.follower.walking or waits or self.members.early.waits

    def extendable(self) -> BlockRef | None:
        """Return our tip if no event or walk needs more than proof that the chain still has it."""
        return None if self.discredited or not self.follower.is_complete else self.follower.tip

    def discredit(self) -> None:
        """Make the next session read the whole registry: k endpoints lack our blocks."""
        self.discredited = True

    def read(self, head: BlockRef) -> None:
        """Record that the whole registry was read at this block."""
        self.resynced_to, self.discredited = head.number, False

    def compared(self) -> None:
        """Record that a resync compared the whole registry."""
        self.resyncs += 1

    def compared_fully(self, tip: BlockRef) -> None:
        """Record that everything was read up to this block, also the logs if they are needed."""
        self.resynced_to = tip.number

    def took(self, advanced: Advanced) -> None:
        """Count the events, and the reorg if it is one."""
        self.events += len(advanced.added)
        self.reorgs += bool(advanced.reorg_depth)

    def finalized(self, events: int) -> None:
        """Count events that have become final."""
        self.confirmed += events
