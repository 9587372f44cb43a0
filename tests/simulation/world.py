"""The node's chain loop and quorum checker with simulated endpoints, and checks of the promises."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from random import Random

from tests.scripted import key, left, members_of
from tests.simulation.adversary import Adversary, honest
from tests.simulation.chain import NAMES, POLICIES, Chain, Right, rights_of
from tests.simulation.endpoints import HEADS, IDENTITY, Conduct, SimulatedEndpoint
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
"""The mean time between blocks, in seconds."""
INTERVAL = 30.0
"""Seconds between resyncs."""
SECONDS = 300.0
"""The length of a run, in simulated seconds."""
SLACK = 6.0
"""Additional seconds for an endpoint's update of its head, or for a broken connection."""


@dataclass
class World:
    """One run."""

    seed: int
    endpoints: int
    needed: int
    hostile: int
    roots: bool = False
    """The contract has no revision: the endpoints show the root hash of its storage."""
    worst: dict[str, float] = field(default_factory=dict)
    """The longest revocation and the longest lag, in seconds."""
    problems: list[str] = field(default_factory=list)
    _reached: int = 0
    """The number of the true chain's block that the node reached."""

    def __post_init__(self) -> None:
        self.random = Random(self.seed)
        self.chain = Chain(Random(self.seed + 1))
        names = [f"ws://e{number}.example:80" for number in range(self.endpoints)]
        self.all = [SimulatedEndpoint(name, self.chain, Random(self.random.random())) for name in names]
        for each in self.all:
            each.roots = self.roots
        hostile, economy = self.random.sample(self.all, self.hostile), self.random.random() < 0.5
        self.honest = [x for x in self.all if x not in hostile]
        for each in self.all:
            each.conduct.polls = economy
        for each in self.honest:
            each.conduct = honest(self.random, polls=economy)
        self.adversary = Adversary(self.random, self.chain, hostile)

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
        state = ChainState(self.members, clock, INTERVAL, asyncio.Queue(10_000), lambda event: None, left)
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

    # -- events ------------------------------------------------------------------------------------

    async def _mine(self) -> None:
        while True:
            await asyncio.sleep(BLOCK * self.random.uniform(0.5, 1.5))
            self.chain.mine(self._now())
            for endpoint in self.adversary.hostile:
                endpoint.grow_fork()

    async def _scheme(self) -> None:
        while True:
            await asyncio.sleep(self.random.choice([1.0, 5.0, 20.0, 60.0]))
            self.adversary.act(self.loop.state.endpoint)
            for each in self.honest:
                if self.random.random() < 0.05:  # a short interruption of the connection
                    each.conduct.down_until = self._now() + self.random.choice([0.1, 1.0])

    @staticmethod
    async def _drain(state: ChainState) -> None:
        while True:
            await state.changed.get()

    # -- checks ------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            self._check_grants()
            self._check_revocations()
            self._check_quarantine()
            self._check_progress()

    def _check_grants(self) -> None:
        """Check that hostile endpoints below the quorum grant nothing."""
        for each in self._granted():
            if each not in self.chain.members:
                self._fail(f"a key was granted that no member ever had: {each}")
        rules = self.members.rules
        hashes = {None if policy is None else policy.hash for policy in rules.policies}
        if hashes and not hashes & {None, *POLICIES}:
            self._fail(f"a policy counts alone that the contract never had: {hashes}")
        if any(name not in {"", true} for name, true in zip(rules.tag_names, NAMES, strict=False)):
            self._fail(f"tags have names that they never had: {rules.tag_names}")
        for right in self._rights() - self.chain.rights:
            self._fail(f"a right was granted that its token never had: {right}")

    def _check_revocations(self) -> None:
        """Check that each revocation is applied within a resync interval plus an honest reply.

        Twice the time of a reply, because a reply may have begun just before the revocation. The
        endpoint's lag and a broken connection add to it.
        """
        bound = INTERVAL + SLACK + min(2 * _resync_time(x.conduct) + x.conduct.lag for x in self.honest)
        if self.needed == 1:  # the node queries only the followed endpoint
            # The sync before, the sync itself, and another one if a reorg interrupts it.
            # A reorg that undoes a grant is found by the next polled head.
            bound = SLACK + max(
                3 * _sync_time(x.conduct) + x.conduct.lag + x.conduct.late + HEADS * x.conduct.polls
                for x in self.honest
            )
        ends = {each: self.chain.ends.get(each) for each in self._granted()}
        lost = {right: self.chain.lost.get(right) for right in self._rights()}
        policies = {None if policy is None else policy.hash for policy in self.members.rules.policies}
        former = [self.chain.former.get(each, None) for each in policies]
        if former and None not in former:
            # None of the policies in force is the contract's: the newest of them counts.
            lost[0, "policy"] = max(since for since in former if since is not None)
        for what, since in (*ends.items(), *lost.items()):
            if since is not None and since >= 0:
                age = self._now() - since
                self._note("revocation", age)
                if age > bound:
                    self._fail(f"granted {age:.0f} s after its end: {what}")

    def _check_quarantine(self) -> None:
        """Check that no honest endpoint is in quarantine."""
        for name, entry in self.loop.source.quarantined().items():
            if any(each.name == name for each in self.honest):
                self._fail(f"{name} is honest, but in quarantine: {entry.reason}")

    def _check_progress(self) -> None:
        """Check that the node's lag behind the best honest head is within a bound.

        If fewer honest endpoints than the quorum exist, the node cannot detect forged blocks.
        """
        tip = self.loop.state.follower.tip
        if tip is None:
            if self._now() > (self.hostile + 1) * (RESYNC_DEADLINE + 10.0):
                self._fail("the registry was not read")
            return
        decidable = len(self.honest) >= self.needed
        if tip.hash in self.chain.blocks or not decidable:
            self._reached = tip.number
        times = [time for time, block in self.chain.heads if block.ref.number > self._reached]
        if times:
            behind = self._now() - max(times[0], 0.0)
            self._note("lag", behind)
            forged = AGREED + INTERVAL if self.hostile and self.adversary.may_forge_blocks else 0.0
            if behind > (self.hostile + 1) * (lag.BOUND + 15.0) + 30.0 + forged:
                self._fail(f"the node is {behind:.0f} s behind")

    def _granted(self) -> set[PublicKey]:
        return set(self.members.membership.peers)

    def _rights(self) -> set[Right]:
        """Return the tags and routes that the node grants to its peers."""
        access, now = self.members.access, self.members.now()
        decisions = [(token, access.decide(token, now)) for token in access.registry.nodes]
        granted = [rights_of(token, x.tags, x.routes) for token, x in decisions if x.granted]
        return set().union(*granted)

    def _note(self, name: str, seconds: float) -> None:
        self.worst[name] = max(self.worst.get(name, 0.0), seconds)

    def _fail(self, problem: str) -> None:
        if problem not in self.problems:
            self.problems.append(f"{self._now():.0f} s: {problem}")

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()


def _resync_time(conduct: Conduct) -> float:
    """Return the seconds for a connection to an endpoint and its replies to a resync."""
    headers, reading = ("head", *["header"] * 3), ("revision", "read_all", "read_contract", "read_policy")
    calls = ("connect", "extension", *headers, *reading)
    return sum(conduct.delays.get(call, conduct.delay) for call in calls)


def _sync_time(conduct: Conduct) -> float:
    """Return the seconds for a connection, and for a sync to a newer head over a short fork."""
    calls = ("connect", "extension", "head", "header", "header", "header", "events", "header")
    return sum(conduct.delays.get(call, conduct.delay) for call in calls)
