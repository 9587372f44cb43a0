"""The node's own code that follows and judges, on simulated endpoints, held to what is promised."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from random import Random

from tests.scripted import key, members_of
from tests.simulation.adversary import Adversary, honest
from tests.simulation.chain import Chain
from tests.simulation.endpoints import IDENTITY, Conduct, SimulatedEndpoint
from tests.simulation.loop import LoopClock

from dstack_vpn.adapters.chain.pool import RpcPool
from dstack_vpn.adapters.chain.url import RpcUrl
from dstack_vpn.core.access.addressing import AddressPlan, unique_local_prefix
from dstack_vpn.core.access.membership import PeerPolicy
from dstack_vpn.core.access.quorum import Quorum
from dstack_vpn.core.access.replies import AGREED
from dstack_vpn.core.chain import lag
from dstack_vpn.core.wireguard.keys import PublicKey
from dstack_vpn.daemon.chain.bootstrap import RESYNC_DEADLINE
from dstack_vpn.daemon.chain.loop import ChainLoop
from dstack_vpn.daemon.chain.quorum_checker import QuorumChecker
from dstack_vpn.daemon.chain.state import ChainState
from dstack_vpn.ports import ChainSession

BLOCK = 4.0
"""Seconds."""
INTERVAL = 30.0
"""Seconds between audits."""
SECONDS = 300.0
"""A run's."""
SLACK = 6.0
"""Seconds for what takes a moment of its own: an endpoint's own look at its head, a broken connection."""


@dataclass
class World:
    """One run."""

    seed: int
    endpoints: int
    needed: int
    liars: int
    worst: dict[str, float] = field(default_factory=dict)
    """The longest revocation and the longest lag that was seen, in seconds."""
    problems: list[str] = field(default_factory=list)
    _stood: int = 0
    """The highest block of the true chain that we stood on."""

    def __post_init__(self) -> None:
        self.random = Random(self.seed)
        self.chain = Chain(Random(self.seed + 1))
        names = [f"ws://e{number}.example:80" for number in range(self.endpoints)]
        self.all = [SimulatedEndpoint(name, self.chain, Random(self.random.random())) for name in names]
        crooks = self.random.sample(self.all, self.liars)
        self.honest = [x for x in self.all if x not in crooks]
        for each in self.honest:
            each.conduct = honest(self.random)
        self.adversary = Adversary(self.random, self.chain, crooks)

    async def run(self) -> "World":
        clock = LoopClock()
        doubted = asyncio.Event()
        self.members = members_of(
            PeerPolicy({}, None, 0),
            AddressPlan(IPv4Network("10.77.0.0/16"), unique_local_prefix(1, IDENTITY.contract)),
            clock,
            own_key=key(250),
            quorum=Quorum(self.needed) if self.needed > 1 else None,
            submit=lambda deltas, seen: self._check_grants(),
            doubted=doubted.set,
        )
        state = ChainState(self.members, clock, INTERVAL, asyncio.Queue(10_000), lambda event: None)
        source, quorum = self._pool(clock.monotonic), self.members.quorum
        quorum_checker = None if quorum is None else QuorumChecker(state, source, quorum, doubted)
        self.loop = ChainLoop(source, state, quorum_checker)
        tasks = [self.loop.run(), self._mine(), self._scheme(), self._drain(state), self._watch()]
        with suppress(TimeoutError):
            async with asyncio.timeout(SECONDS), asyncio.TaskGroup() as group:
                for task in tasks:
                    group.create_task(task)
        return self

    def _pool(self, monotonic: Callable[[], float]) -> RpcPool:
        by_name = {x.name: x for x in self.all}

        def open_(url: RpcUrl, *_: object) -> AbstractAsyncContextManager[ChainSession]:
            return by_name[url.name].open()

        return RpcPool(
            [x.name for x in self.all],
            IDENTITY.contract,
            monotonic=monotonic,
            draw=self.random.random,
            open_=open_,
        )

    # -- what happens ------------------------------------------------------------------------------

    async def _mine(self) -> None:
        while True:
            await asyncio.sleep(BLOCK * self.random.uniform(0.5, 1.5))
            self.chain.mine(self._now())
            for liar in self.adversary.liars:
                liar.grow_fork()

    async def _scheme(self) -> None:
        while True:
            await asyncio.sleep(self.random.choice([1.0, 5.0, 20.0, 60.0]))
            self.adversary.act(self.loop.state.endpoint)
            for each in self.honest:
                if self.random.random() < 0.05:  # a connection that breaks, and is back at once
                    each.conduct.down_until = self._now() + self.random.choice([0.1, 1.0])

    @staticmethod
    async def _drain(state: ChainState) -> None:
        while True:
            await state.changed.get()

    # -- what is promised --------------------------------------------------------------------------

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            self._check_grants()
            self._check_revocations()
            self._check_quarantine()
            self._check_progress()

    def _check_grants(self) -> None:
        """Fewer than k liars grant nothing."""
        for each in self._granted():
            if each not in self.chain.members:
                self._fail(f"a key was granted that no member ever had: {each}")

    def _check_revocations(self) -> None:
        """Every revocation is applied within an audit interval and what an honest endpoint takes to answer.

        An answer may have begun just before; the endpoint's lag and a broken connection come on top.
        """
        bound = INTERVAL + SLACK + min(2 * _audit_time(x.conduct) + x.conduct.lag for x in self.honest)
        if self.needed == 1:  # nobody is asked but the followed endpoint, whichever that is
            # The walk before, the walk itself, and another one if a reorg spoils it.
            bound = SLACK + max(3 * _walk_time(x.conduct) + x.conduct.lag for x in self.honest)
        for each in self._granted():
            since = self.chain.ends.get(each)
            if since is not None and since >= 0:
                age = self._now() - since
                self._note("revocation", age)
                if age > bound:
                    self._fail(f"a key is granted {age:.0f} s after it was out")

    def _check_quarantine(self) -> None:
        """No honest endpoint is found to lie."""
        for name, entry in self.loop.source.quarantined().items():
            if any(each.name == name for each in self.honest):
                self._fail(f"{name} is honest, and in quarantine: {entry.reason}")

    def _check_progress(self) -> None:
        """We stand within a bound of the best honest head.

        Nobody can tell made-up blocks from true ones if fewer than k endpoints are honest.
        """
        tip = self.loop.state.follower.tip
        if tip is None:
            if self._now() > (self.liars + 1) * (RESYNC_DEADLINE + 10.0):
                self._fail("nothing was read")
            return
        decidable = len(self.honest) >= self.needed
        if tip.hash in self.chain.blocks or not decidable:
            self._stood = tip.number
        times = [time for time, block in self.chain.heads if block.ref.number > self._stood]
        if times:
            behind = self._now() - max(times[0], 0.0)
            self._note("lag", behind)
            astray = AGREED + INTERVAL if self.liars and self.adversary.may_make_up_blocks else 0.0
            if behind > (self.liars + 1) * (lag.BOUND + 15.0) + 30.0 + astray:
                self._fail(f"we are {behind:.0f} s behind")

    def _granted(self) -> set[PublicKey]:
        return set(self.members.membership.peers)

    def _note(self, what: str, seconds: float) -> None:
        self.worst[what] = max(self.worst.get(what, 0.0), seconds)

    def _fail(self, what: str) -> None:
        if what not in self.problems:
            self.problems.append(f"{self._now():.0f} s: {what}")

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()


def _audit_time(conduct: Conduct) -> float:
    """Seconds that an endpoint takes to connect, and to answer an audit."""
    calls = ("connect", "head", "header", "header", "read_all")
    return sum(conduct.delays.get(call, conduct.delay) for call in calls)


def _walk_time(conduct: Conduct) -> float:
    """Seconds that it takes to connect, and to get from our tip to a newer head, over a short fork."""
    calls = ("connect", "head", "header", "header", "header", "events", "header")
    return sum(conduct.delays.get(call, conduct.delay) for call in calls)
