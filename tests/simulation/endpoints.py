"""Endpoints of the simulated chain, honest or not: sessions as the node opens them, without a network."""

import asyncio
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from random import Random

from tests.simulation.chain import Block, Chain, after, some_event

from dstack_vpn.core.chain.events import EndpointUpdated, KeyUpdated, LoggedEvent, RegistryEvent, TokenState
from dstack_vpn.core.chain.node import Node
from dstack_vpn.core.chain.registry import Registry
from dstack_vpn.core.model import BlockRef, ChainIdentity, TokenId
from dstack_vpn.errors import ChainError, EndpointError
from dstack_vpn.ports import ChainFact, Unannounced

IDENTITY = ChainIdentity(1, "0", "0x" + "c0" * 20)
TICK = 0.5
"""Seconds between looks of an endpoint at its own head."""
CALL = 20.0
"""Seconds after which a call fails, as the real session's do."""
FOREVER = 3600.0
"""Seconds: an answer that never comes."""


@dataclass
class Conduct:
    """What an endpoint does. The defaults are honest and quick."""

    delay: float = 0.02
    """Seconds for each answer..."""
    delays: dict[str, float] = field(default_factory=dict)
    """...and for those of some methods."""
    lag: float = 0.0
    """Seconds that its head is late."""
    announces: bool = True
    """Whether logs and heads are announced; else it is asked for heads."""
    down_until: float = -math.inf
    stuck: Block | None = None
    """The head that it stays at."""
    fork: list[Block] | None = None
    """Blocks of its own, on which it goes on."""
    boast: int = 0
    """Blocks that it claims to be ahead."""
    skips: int = 1
    """It announces each so manieth head."""
    overlay: dict[TokenId, Node | None] = field(default_factory=dict)
    """What it shows of some tokens instead of the truth..."""
    overlaid: frozenset[str] = frozenset({"read_all", "read_tokens"})
    """...in answers to these."""
    hides: set[TokenId] = field(default_factory=set)
    """Tokens whose logs it keeps to itself."""
    forged: list[RegistryEvent] = field(default_factory=list)
    """Events that it is about to announce, in its next block."""
    raises: frozenset[str] = frozenset()
    """Methods that fail."""
    ahead_only: bool = False
    """Its logs come before their heads, and the heads never do."""


@dataclass
class SimulatedEndpoint:
    """One endpoint."""

    name: str
    chain: Chain
    random: Random
    conduct: Conduct = field(default_factory=Conduct)
    calls: int = 0

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def head(self) -> Block:
        conduct = self.conduct
        if conduct.fork is not None:
            return conduct.fork[-1]
        return conduct.stuck or self.chain.seen(self.now() - conduct.lag)

    def grow_fork(self) -> None:
        """A liar's own block on its own fork."""
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

    async def answered(self, method: str) -> None:
        """Wait as long as the answer takes; raises what the endpoint fails with."""
        conduct = self.endpoint.conduct
        self.endpoint.calls += 1
        delay = conduct.delays.get(method, conduct.delay)
        await asyncio.sleep(min(delay, CALL))
        if delay > CALL:
            raise EndpointError(f"{self.name} has not answered {method} in {CALL:.0f} s")
        if self.endpoint.now() < conduct.down_until or method in conduct.raises:
            raise EndpointError(f"{self.name} is down")

    async def facts(self) -> AsyncIterator[ChainFact | Unannounced]:
        head = self.endpoint.head()
        yield head.ref
        count = 0
        while True:
            await asyncio.sleep(TICK)
            conduct = self.endpoint.conduct
            if self.endpoint.now() < conduct.down_until:
                raise EndpointError(f"{self.name} is down")
            before, head = head, self.endpoint.head()
            for forged in conduct.forged:
                yield LoggedEvent(head.ref.number, head.ref.hash, 7, forged)
            conduct.forged = []
            if head is before:
                continue
            for number in range(min(before.ref.number + 1, head.ref.number), head.ref.number + 1):
                block = head.at(number)
                assert block is not None
                for logged in block.logs if self.announces_logs else ():
                    if _token(logged) not in conduct.hides:
                        yield logged
                count += 1
                if self.announces_logs and count % conduct.skips == 0 and not conduct.ahead_only:
                    yield block.ref
            if not self.announces_logs:
                yield head.ref

    async def head(self) -> BlockRef:
        await self.answered("head")
        head, boast = self.endpoint.head().ref, self.endpoint.conduct.boast
        return head if not boast else BlockRef(head.number + boast, f"boast{head.number + boast}", "?", 0)

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

    async def first_block(self) -> int:
        return 0

    def _known(self, block_hash: str) -> Block:
        """A block that this endpoint has."""
        block = self.endpoint.chain.blocks.get(block_hash)
        fork = self.endpoint.conduct.fork or ()
        block = next((b for b in fork if b.ref.hash == block_hash), block)
        if block is None or (not fork and block.ref.number > self.endpoint.head().ref.number):
            raise EndpointError(f"{self.name} does not know that block")
        return block

    def _state(self, method: str, at: BlockRef) -> dict[TokenId, Node]:
        conduct = self.endpoint.conduct
        try:
            found = dict(self._known(at.hash).state.nodes)
        except ChainError:
            if not conduct.boast:
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


def forged_member(token: TokenId, state: Registry, make: Node) -> Node:
    """A token as a liar would have it: as it is, or with another key."""
    return replace(state.get(token) or make, active=True)


__all__ = ["FOREVER", "Conduct", "EndpointUpdated", "KeyUpdated", "SimulatedEndpoint", "SimulatedSession"]
