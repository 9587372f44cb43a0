"""Honest and hostile endpoints of the simulated chain, with sessions that need no network."""

import asyncio
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from random import Random

from tests.simulation.chain import Block, Chain, after, some_event

from dstack_vpn.core.chain.agreement import Revision
from dstack_vpn.core.chain.contract import ContractState
from dstack_vpn.core.chain.events import LoggedEvent, PolicyRead, RegistryEvent, TokenState
from dstack_vpn.core.chain.extension import Extension
from dstack_vpn.core.chain.node import Node
from dstack_vpn.core.model import BlockRef, ChainIdentity, TokenId
from dstack_vpn.errors import ChainError, EndpointError
from dstack_vpn.ports import ChainFact, HeadNeeds, Unannounced

IDENTITY = ChainIdentity(1, "0", "0x" + "c0" * 20)
TICK = 0.5
"""Seconds between an endpoint's updates of its head."""
CALL = 20.0
"""The timeout of a call in seconds, as in the real session."""
HEADS = 15.0
"""Seconds between polls of an endpoint that announces logs, as with FOLLOW=economy."""
HTTP = 5.0
"""The same for one that announces nothing."""
FOREVER = 3600.0
"""A delay in seconds beyond all timeouts: the endpoint never replies."""


@dataclass
class Conduct:
    """The behaviour of an endpoint. The defaults are honest and quick."""

    delay: float = 0.02
    """Seconds for each reply, unless ``delays`` has the method."""
    delays: dict[str, float] = field(default_factory=dict)
    """Seconds for each reply by method."""
    lag: float = 0.0
    """Seconds by which its head is late."""
    announces: bool = True
    """True if it announces logs and heads. Otherwise the node polls for heads."""
    down_until: float = -math.inf
    stuck: Block | None = None
    """The head at which it stays."""
    fork: list[Block] | None = None
    """The blocks of its own fork."""
    lead: int = 0
    """The number of blocks by which it claims to be ahead."""
    polls: bool = False
    """It announces only logs, if it announces anything, and is polled at an interval."""
    late: float = 0.0
    """Seconds by which its logs come later than replies to polls: another backend sends them."""
    skips: int = 1
    """It announces only each n-th head."""
    overlay: dict[TokenId, Node | None] = field(default_factory=dict)
    """The false states of tokens in replies to the methods of ``overlaid``."""
    overlaid: frozenset[str] = frozenset({"read_all", "read_tokens"})
    hides: set[TokenId | None] = field(default_factory=set)
    """The tokens whose logs it hides."""
    forged: list[RegistryEvent] = field(default_factory=list)
    """The forged events that it announces with its next block."""
    raises: frozenset[str] = frozenset()
    """The methods that fail."""
    revision: Revision | None = None
    """The false reply to every query for the revision."""
    contract: ContractState | None = None
    """The state of the contract itself that it shows instead of the true one."""
    ahead_only: bool = False
    """It announces logs without their heads."""


@dataclass
class SimulatedEndpoint:
    """An endpoint of the simulated chain."""

    name: str
    chain: Chain
    random: Random
    conduct: Conduct = field(default_factory=Conduct)
    calls: int = 0
    roots: bool = False
    """The contract has no revision: the endpoint shows the root hash of its storage."""

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def head(self, late: float = 0.0) -> Block:
        """Return the newest block; ``late``: of the backend that is so many seconds behind."""
        conduct = self.conduct
        if conduct.fork is not None:
            return conduct.fork[-1]
        return conduct.stuck or self.chain.seen(self.now() - conduct.lag - late)

    def revision_of(self, block: Block) -> Revision:
        """Return the true revision of a block."""
        return block.root if self.roots else block.revision

    def grow_fork(self) -> None:
        """Add a block to the endpoint's own fork, if it has one."""
        fork = self.conduct.fork
        if fork is not None:
            event = some_event(self.random, fork[-1].state) if self.random.random() < 0.3 else None
            fork.append(after(fork[-1], event, f"x{self.name}", fork[-1].line))

    @asynccontextmanager
    async def open(self) -> AsyncIterator["SimulatedSession"]:
        session = SimulatedSession(self)
        await session.answered("connect")
        yield session


class SimulatedSession:
    """Implements `ports.ChainSession`."""

    rereads: frozenset[type[RegistryEvent]] = frozenset()
    identity = IDENTITY

    def __init__(self, endpoint: SimulatedEndpoint) -> None:
        self.endpoint, self.name = endpoint, endpoint.name
        self.announces_logs = endpoint.conduct.announces
        self.polled = endpoint.conduct.polls
        self._logged = False
        self.announces_heads = self.announces_logs and not self.polled

    async def answered(self, method: str) -> None:
        """Wait for the delay of a reply; raises `EndpointError` if the endpoint fails."""
        conduct = self.endpoint.conduct
        self.endpoint.calls += 1
        delay = conduct.delays.get(method, conduct.delay)
        await asyncio.sleep(min(delay, CALL))
        if delay > CALL:
            raise EndpointError(f"{self.name} did not reply to {method} within {CALL:.0f} s")
        if self.endpoint.now() < conduct.down_until or method in conduct.raises:
            raise EndpointError(f"{self.name} is down")

    async def polls(self, needs: HeadNeeds) -> AsyncIterator[BlockRef | Extension]:
        interval = HEADS if self.announces_logs else HTTP
        ends = self.endpoint.now() + interval
        while self.polled:
            while self.endpoint.now() < ends and not self._logged:  # noqa: ASYNC110  # simulated time
                await asyncio.sleep(TICK)
            self._logged, tip = False, needs.extendable()
            found = None if tip is None else await self.extension(tip)
            newer = tip is not None and found is not None and found.head.number > tip.number
            yield found if newer and found is not None else await self.head()
            ends = self.endpoint.now() + (1.0 if needs.needs_heads() else interval)

    async def facts(self) -> AsyncIterator[ChainFact | Unannounced]:
        head, count = self.endpoint.head(), 0
        yield head.ref
        late = self.endpoint.conduct.late if self.polled else 0.0
        head = self.endpoint.head(late)
        while True:
            await asyncio.sleep(TICK)
            conduct = self.endpoint.conduct
            if self.endpoint.now() < conduct.down_until:
                raise EndpointError(f"{self.name} is down")
            before, head = head, self.endpoint.head(late)
            for forged in conduct.forged:
                yield LoggedEvent(head.ref.number, head.ref.hash, 7, forged)
            conduct.forged = []
            if head is before:
                continue
            first = min(before.ref.number + 1, head.ref.number)
            if not self.announces_heads:  # logs of a reorg's blocks are announced, without `removed`
                while first > 1 and before.at(first - 1) is not head.at(first - 1):
                    first -= 1
            for number in range(first, head.ref.number + 1):
                block = head.at(number)
                assert block is not None
                for logged in block.logs if self.announces_logs else ():
                    if _token(logged) not in conduct.hides:
                        yield logged
                        self._logged = True
                count += 1
                if self.announces_heads and count % conduct.skips == 0 and not conduct.ahead_only:
                    yield block.ref
            if not self.announces_logs and not self.polled:
                yield head.ref

    async def head(self) -> BlockRef:
        await self.answered("head")
        head, lead = self.endpoint.head().ref, self.endpoint.conduct.lead
        return head if not lead else BlockRef(head.number + lead, f"lead{head.number + lead}", "?", 0)

    async def extension(self, *known: BlockRef) -> Extension | None:
        await self.answered("extension")
        conduct, block = self.endpoint.conduct, self.endpoint.head()
        true = None if self.endpoint.roots else block.revision
        revision = conduct.revision if isinstance(conduct.revision, int) else true
        if conduct.lead:
            number = block.ref.number + conduct.lead - 1
            return Extension(known[0], BlockRef(number, f"lead{number}", "?", 0), revision)
        head = block.at(block.ref.number - 1)
        ours = (block.at(x.number) for x in known if x.number < block.ref.number)
        hashes = [None if x is None else x.ref.hash for x in ours]
        if head is None or hashes != [x.hash for x in known]:
            return None
        return Extension(known[0], replace(head.ref, timestamp=block.ref.timestamp), revision)

    async def header(self, number: int) -> BlockRef | None:
        await self.answered("header")
        block = self.endpoint.head().at(number)
        return None if block is None else block.ref

    async def finalized(self) -> BlockRef | None:
        await self.answered("finalized")
        block = self.endpoint.head().at(max(self.endpoint.head().ref.number - 8, 0))
        return None if block is None else block.ref

    async def events(self, first: int, last: int) -> list[LoggedEvent]:
        await self.answered("events")
        head = self.endpoint.head()
        blocks = [head.at(number) for number in range(first, min(last, head.ref.number) + 1)]
        hides = self.endpoint.conduct.hides
        return [x for b in blocks if b is not None for x in b.logs if _token(x) not in hides]

    async def events_up_to(self, first: int, last: BlockRef) -> list[LoggedEvent] | None:
        found = await self.events(first, last.number)
        block = self.endpoint.head().at(last.number)
        return found if block is not None and block.ref.hash == last.hash else None

    async def block_events(self, block_hash: str) -> list[LoggedEvent]:
        await self.answered("events")
        return list(self._known(block_hash).logs)

    async def read_tokens(self, tokens: Sequence[TokenId], at: BlockRef) -> list[TokenState]:
        await self.answered("read_tokens")
        state = self._state("read_tokens", at)
        return [TokenState(token, state.get(token)) for token in tokens]

    async def read_all(self, at: BlockRef) -> list[TokenState] | None:
        await self.answered("read_all")
        return [TokenState(token, node) for token, node in self._state("read_all", at).items()]

    async def revision(self, at: BlockRef) -> Revision | None:
        await self.answered("revision")
        conduct = self.endpoint.conduct
        try:
            true = self.endpoint.revision_of(self._known(at.hash))
        except ChainError:
            if not conduct.lead:
                raise
            true = self.endpoint.revision_of(self.endpoint.head())
        return true if conduct.revision is None else conduct.revision

    async def read_contract(self, at: BlockRef) -> ContractState | None:
        await self.answered("read_contract")
        return self._contract(at)

    async def read_policy(self, at: BlockRef) -> PolicyRead:
        await self.answered("read_policy")
        policy = self._contract(at).policy
        return PolicyRead(policy and replace(policy, text=f"text of {policy.hash}"))

    def _contract(self, at: BlockRef) -> ContractState:
        conduct = self.endpoint.conduct
        if conduct.contract is not None:
            return conduct.contract
        try:
            return self._known(at.hash).state.contract
        except ChainError:
            if not conduct.lead:
                raise
            return self.endpoint.head().state.contract

    async def first_block(self) -> int:
        return 0

    def _known(self, block_hash: str) -> Block:
        """Return a block that this endpoint has; raises `EndpointError` if it has not."""
        block = self.endpoint.chain.blocks.get(block_hash)
        fork = self.endpoint.conduct.fork or ()
        block = next((b for b in fork if b.ref.hash == block_hash), block)
        if block is None or (not fork and block.ref.number > self.endpoint.head().ref.number):
            raise EndpointError(f"{self.name} does not have the block {block_hash}")
        return block

    def _state(self, method: str, at: BlockRef) -> dict[TokenId, Node]:
        conduct = self.endpoint.conduct
        try:
            found = dict(self._known(at.hash).state.nodes)
        except ChainError:
            if not conduct.lead:
                raise
            found = dict(self.endpoint.head().state.nodes)
        if method in conduct.overlaid:
            for token, node in conduct.overlay.items():
                if node is None:
                    found.pop(token, None)
                else:
                    found[token] = node
        return found


def _token(logged: LoggedEvent) -> TokenId | None:
    return getattr(logged.event, "token_id", None)
