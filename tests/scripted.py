"""A chain of blocks in memory that can fork, and a scripted `ChainSource` over it.

They are for tests of the layers above the RPC adapters. The adapters' own tests use the fake chain
server and anvil.
"""

import asyncio
import hashlib
import itertools
import math
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from dstack_vpn.core.access.addressing import AddressPlan
from dstack_vpn.core.access.control import NodeIdentity
from dstack_vpn.core.access.membership import PeerPolicy
from dstack_vpn.core.access.staleness import Staleness
from dstack_vpn.core.chain.agreement import Revision
from dstack_vpn.core.chain.contract import ContractState
from dstack_vpn.core.chain.events import Granted, LoggedEvent, PolicyRead, RegistryEvent, TokenState
from dstack_vpn.core.chain.extension import Extension
from dstack_vpn.core.chain.registry import Registry, apply
from dstack_vpn.core.chain.usage import Usage
from dstack_vpn.core.model import BlockRef, ChainIdentity, Position, TokenId
from dstack_vpn.core.paths.peer_endpoint import PeerEndpoint
from dstack_vpn.core.paths.routes import NO_ROUTES
from dstack_vpn.core.policy.selection import GoodPolicy, PolicySelection
from dstack_vpn.core.wireguard.keys import PublicKey
from dstack_vpn.daemon.peers.early import EarlyRevocations
from dstack_vpn.daemon.peers.members import Members
from dstack_vpn.daemon.peers.policies import Policies
from dstack_vpn.daemon.peers.routes import Routes
from dstack_vpn.errors import ChainError, EndpointError
from dstack_vpn.ports import ChainFact, ChainSession, Checkpoint, Clock, EarlyFact, HeadNeeds, Quarantine

_T = TypeVar("_T")

IDENTITY = ChainIdentity(31337, "0x" + "ab" * 32, "0x" + "cd" * 20)


def key(number: int) -> PublicKey:
    return PublicKey(bytes([number % 255 + 1]) * 32)


def grant(token: int, number: int | None = None) -> Granted:
    return Granted(token, f"0xowner{token}", f"node-{token}", key(token if number is None else number))


def left(passed: float, interval: float) -> float:
    """Return the seconds until a resync without a budget of calls."""
    return interval - passed


def members_of(policy: PeerPolicy, addresses: AddressPlan, clock: Clock, **others: Any) -> Members:
    """Return a membership whose collaborators do nothing, except those in ``others``."""
    given: dict[str, Any] = {
        "own_key": key(9),
        "identity": NodeIdentity(None),
        "confirmations": 0,
        "paced": False,
        "lookup": lambda peer, peer_endpoint: None,
        "quorum": None,
        "staleness": Staleness(math.inf),
        "submit": lambda deltas, seen: None,
        "doubted": lambda: None,
        "own_changed": lambda: None,
        "rekey": lambda access, now: None,
        "publish": lambda event: None,
        "early": EarlyRevocations(True, clock, lambda event: None),
        "routes": Routes(NO_ROUTES, clock, lambda event: None, lambda: None),
        "policies": Policies(addresses, PolicySelection(), clock, lambda event: None, has_exit=False),
    }
    return Members(policy=policy, addresses=addresses, clock=clock, **(given | others))


@dataclass
class ScriptedChain:
    """Blocks with real links; block 0 is final."""

    blocks: list[BlockRef] = field(default_factory=lambda: [BlockRef(0, "h0", "", 0)])
    logs: dict[str, list[LoggedEvent]] = field(default_factory=dict)
    uris: dict[TokenId, PeerEndpoint] = field(default_factory=dict)
    """The endpoints of token URIs, which only a read of the token shows, not its events."""
    policies: dict[str, str] = field(default_factory=dict)
    """The texts of policies by hash."""
    _serial: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    @property
    def head(self) -> BlockRef:
        return self.blocks[-1]

    def mine(self, *block_events: RegistryEvent) -> list[ChainFact]:
        parent = self.blocks[-1]
        block = BlockRef(parent.number + 1, f"h{next(self._serial)}", parent.hash, 0)
        self.blocks.append(block)
        self.logs[block.hash] = [
            LoggedEvent(block.number, block.hash, i, event) for i, event in enumerate(block_events)
        ]
        return [block, *self.logs[block.hash]]

    def rewind(self, depth: int) -> list[LoggedEvent]:
        """Remove the last blocks; return their logs, marked as removed."""
        depth = min(depth, len(self.blocks) - 1)
        gone = self.blocks[len(self.blocks) - depth :]
        del self.blocks[len(self.blocks) - depth :]
        return [replace(log, removed=True) for block in gone for log in self.logs[block.hash]]

    def events(self, first: int, last: int) -> list[LoggedEvent]:
        return [log for block in self.blocks[first : last + 1] for log in self.logs.get(block.hash, [])]

    def registry(self, at: int | None = None) -> Registry:
        """Return the registry after all events up to block ``at``."""
        state = Registry()
        for log in self.events(0, len(self.blocks) if at is None else at):
            state, _ = apply(state, log.event, Position(log.block_number, log.log_index))
        return state


@dataclass
class ScriptedSource:
    """Sessions on a scripted chain, one at a time."""

    chain: ScriptedChain
    enumerates: bool = True
    roots: bool = False
    """The contract has no revision, and the endpoint shows the root hash of its storage."""
    up: bool = True
    identity: ChainIdentity = IDENTITY
    second: ScriptedChain | None = None
    """The chain of another endpoint, if it differs."""
    final: int = 0
    calls: list[str] = field(default_factory=list)
    rereads: frozenset[type[RegistryEvent]] = frozenset()
    announces_logs: bool = True
    announces_heads: bool = True
    has_contract: bool = False
    """The contract has a state of its own."""
    late: list[RegistryEvent] = field(default_factory=list)
    """Events that are mined after the first reply, and before the subscription begins."""
    name: str = "ws://scripted"
    queue: "asyncio.Queue[ChainFact | EarlyFact | ChainError]" = field(default_factory=asyncio.Queue)
    seconds: int = 0
    used: dict[str, Usage] = field(default_factory=dict)
    """The use of the endpoint by method, which a test sets."""
    _was_read: asyncio.Event = field(default_factory=asyncio.Event)

    @asynccontextmanager
    async def session(self) -> AsyncIterator[ChainSession]:
        await asyncio.sleep(0.005)
        if not self.up:
            raise EndpointError("the scripted endpoint is down")
        self.queue = asyncio.Queue()
        yield self

    @asynccontextmanager
    async def other(self, *, than: str) -> AsyncIterator[ChainSession]:
        del than
        self.seconds += 1
        if not self.up:
            raise EndpointError("the scripted endpoint is down")
        yield ScriptedSource(self.second or self.chain, self.enumerates, name="ws://other")

    def others(self, *, than: str) -> list[str]:
        return ["ws://other"]

    def to(self, name: str) -> AbstractAsyncContextManager[ChainSession]:
        return self.other(than="")

    def quarantine(self, name: str, reason: str) -> None:
        raise AssertionError(f"{name}: {reason}")

    def quarantined(self) -> dict[str, Quarantine]:
        return {}

    def usage(self) -> dict[str, dict[str, Usage]]:
        return {self.name: dict(self.used)}

    def tell(self, facts: Sequence[ChainFact | ChainError]) -> None:
        for fact in facts:
            self.queue.put_nowait(fact)

    def fail(self) -> None:
        self.up = False
        self.tell([EndpointError("the scripted endpoint hung up")])

    # -- ChainSession ------------------------------------------------------------------------------

    async def polls(self, needs: HeadNeeds) -> AsyncIterator[BlockRef | Extension]:
        nothing: tuple[BlockRef, ...] = ()
        for found in nothing:
            yield found

    async def facts(self) -> AsyncIterator[ChainFact | EarlyFact]:
        if self.late:
            await self._was_read.wait()
            self.chain.mine(*self.late)
            self.late = []
        yield self.chain.head
        while True:
            fact = await self.queue.get()
            if isinstance(fact, ChainError):
                raise fact
            yield fact

    async def head(self) -> BlockRef:
        return await self._answer("head", self.chain.head)

    async def extension(self, *known: BlockRef) -> Extension | None:
        below = self.chain.blocks[:-1]
        revision = await self.revision(self.chain.head)
        if not below or any(block not in below for block in known):
            return None
        return Extension(known[0], below[-1], revision if isinstance(revision, int) else None)

    async def header(self, number: int) -> BlockRef | None:
        found = self.chain.blocks[number] if number < len(self.chain.blocks) else None
        return await self._answer("header", found)

    async def finalized(self) -> BlockRef | None:
        return await self._answer("finalized", self.chain.blocks[self.final])

    async def events_up_to(self, first: int, last: BlockRef) -> list[LoggedEvent] | None:
        return await self._answer("events", self.chain.events(first, last.number))

    async def events(self, first: int, last: int) -> list[LoggedEvent]:
        return await self._answer("events", self.chain.events(first, last))

    async def block_events(self, block_hash: str) -> list[LoggedEvent]:
        return await self._answer("block_events", self.chain.logs[block_hash])

    async def read_tokens(self, tokens: Sequence[TokenId], at: BlockRef) -> list[TokenState]:
        registry = self.chain.registry(at.number)
        return await self._answer("read_tokens", [self._observe(registry, token) for token in tokens])

    async def read_all(self, at: BlockRef) -> list[TokenState] | None:
        registry = self.chain.registry(at.number)
        everything = [self._observe(registry, token) for token in registry.nodes]
        self._was_read.set()
        return await self._answer("read_all", everything if self.enumerates else None)

    async def revision(self, at: BlockRef) -> Revision | None:
        count = len(self.chain.events(0, at.number)) + len(self.chain.uris)
        found = self._root(at) if self.roots else count if self.enumerates else None
        return await self._answer("revision", found)

    def _root(self, at: BlockRef) -> str:
        """Return a hash of everything that a full reading shows."""
        registry = self.chain.registry(at.number)
        tokens = [self._observe(registry, token) for token in sorted(registry.nodes)]
        content = repr((tokens, registry.contract, self.chain.uris))
        return "0x" + hashlib.sha256(content.encode()).hexdigest()

    async def read_contract(self, at: BlockRef) -> ContractState | None:
        if not self.has_contract:
            return None
        state = self.chain.registry(at.number).contract
        return await self._answer("read_contract", replace(state, is_read=True))

    async def read_policy(self, at: BlockRef) -> PolicyRead:
        policy = self.chain.registry(at.number).contract.policy
        text = None if policy is None else replace(policy, text=self.chain.policies[policy.hash])
        return await self._answer("read_policy", PolicyRead(text))

    async def first_block(self) -> int:
        return await self._answer("first_block", 0)

    def _observe(self, registry: Registry, token: TokenId) -> TokenState:
        node = registry.get(token)
        if node is not None and token in self.chain.uris:
            node = replace(node, uri_endpoint=self.chain.uris[token])
        return TokenState(token, node)

    async def _answer(self, call: str, result: _T) -> _T:
        self.calls.append(call)
        await asyncio.sleep(0)
        if not self.up:
            raise EndpointError("the scripted endpoint is down")
        return result


@dataclass
class MemoryStore:
    """A `Store` in memory."""

    saved: Checkpoint | None = None

    async def load(self) -> Checkpoint | None:
        return self.saved

    async def append(
        self,
        tip: BlockRef,
        added: Sequence[LoggedEvent],
        dropped: Sequence[LoggedEvent],
        synced: float | None = None,
    ) -> None:
        if self.saved is not None:
            kept = tuple(event for event in self.saved.events if event not in dropped)
            self.saved = replace(self.saved, tip=tip, events=(*kept, *added), synced=synced)

    async def checkpoint(self, checkpoint: Checkpoint) -> None:
        before = None if self.saved is None else self.saved.policy
        self.saved = replace(checkpoint, policy=checkpoint.policy or before)

    async def keep_policy(self, policy: GoodPolicy) -> None:
        if self.saved is not None:
            self.saved = replace(self.saved, policy=policy)

    async def close(self) -> None:
        pass


@dataclass
class MemoryArchive:
    """A `ConfigArchive` in memory."""

    text: str = ""
    pin: str | None = None
    writes: int = 0

    async def write(self, text: str) -> None:
        self.text, self.writes = text, self.writes + (text != self.text)

    async def pinned(self) -> str | None:
        return self.pin
