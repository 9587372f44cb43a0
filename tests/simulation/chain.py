"""A chain in simulated time, with grants, revocations, key changes, and short reorgs."""

import hashlib
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from random import Random

from tests.scripted import key

from dstack_vpn.core.access.replies import routes_of
from dstack_vpn.core.chain.contract import ContractState
from dstack_vpn.core.chain.events import (
    EndpointUpdated,
    Granted,
    KeyUpdated,
    LoggedEvent,
    PolicyUpdated,
    RegistryEvent,
    Revoked,
    RoutesUpdated,
    TagDefined,
    TagsUpdated,
)
from dstack_vpn.core.chain.registry import Registry, apply
from dstack_vpn.core.model import BlockRef, Endpoint, Position, TokenId
from dstack_vpn.core.paths.peer_endpoint import PeerEndpoint
from dstack_vpn.core.wireguard.keys import PublicKey

TOKENS = range(1, 6)
OWNER = "0x" + "0a" * 20
TAGS = 0b1111
"""The tags that tokens of the true chain may have."""
ROUTES = ("10.0.0.0/8", "172.16.0.0/12", "fd00::/8")
POLICIES = tuple("0x" + digit * 64 for digit in "abc")
"""The hashes of the true chain's policies."""
NAMES = ("web", "db", "gateway")
"""The names of the tags, in the order of their definition."""
Right = tuple[TokenId, int | str]
"""A token, and one tag (a mask of one bit) or one route."""


def rights_of(token: TokenId, tags: int, routes: Iterable[str]) -> set[Right]:
    """Return each tag and each route of a token."""
    bits = (1 << index for index in range(tags.bit_length()) if tags >> index & 1)
    rights: list[int | str] = [*bits, *routes]
    return {(token, right) for right in rights}


@dataclass(frozen=True, eq=False)
class Block:
    """A block with its state and its logs."""

    ref: BlockRef
    state: Registry
    logs: tuple[LoggedEvent, ...]
    line: list["Block"]
    """The blocks of its chain. Its ancestors are at the indexes below its number."""
    revision: int = 0
    """The number of events so far."""

    @cached_property
    def root(self) -> str:
        """A hash of the state, which says nothing about the blocks before."""
        content = repr((sorted(self.state.nodes.items()), self.state.contract))
        return "0x" + hashlib.sha256(content.encode()).hexdigest()

    def at(self, number: int) -> "Block | None":
        """Return the ancestor with this number, or the block itself."""
        return self.line[number] if 0 <= number <= self.ref.number else None


def after(parent: Block | None, event: RegistryEvent | None, mark: str, line: list[Block]) -> Block:
    """Return the next block, with this event."""
    number = 0 if parent is None else parent.ref.number + 1
    hash_ = f"{number}{mark}"
    ref = BlockRef(number, hash_, "" if parent is None else parent.ref.hash, 0)
    state = Registry(contract=ContractState(is_read=True)) if parent is None else parent.state
    logs: tuple[LoggedEvent, ...] = ()
    if event is not None:
        logs = (LoggedEvent(number, hash_, 0, event),)
        state, _ = apply(state, event, Position(number, 0))
    revision = (0 if parent is None else parent.revision) + len(logs)
    block = Block(ref, state, logs, line, revision)
    line.append(block)
    return block


@dataclass
class Chain:
    """The true chain."""

    random: Random
    blocks: dict[str, Block] = field(default_factory=dict)
    heads: list[tuple[float, Block]] = field(default_factory=list)
    """The heads, and their times."""
    members: dict[PublicKey, set[TokenId]] = field(default_factory=dict)
    """All keys that were ever granted, and their tokens."""
    ends: dict[PublicKey, float] = field(default_factory=dict)
    """The times at which keys were revoked or replaced."""
    lost: dict[Right, float] = field(default_factory=dict)
    """The times at which tokens lost rights that they had."""
    former: dict[str | None, float] = field(default_factory=dict)
    """The times at which policies ended; None: that the contract had no policy."""
    _rights: set[Right] = field(default_factory=set)
    """All rights that tokens ever had."""
    _forks: int = 0

    def __post_init__(self) -> None:
        block, line = None, list[Block]()
        for token in (None, *TOKENS):
            event = None if token is None else self._grant(token)
            block = after(block, event, "", line)
            self._take(block, -1000.0)

    @property
    def head(self) -> Block:
        return self.heads[-1][1]

    def seen(self, time: float) -> Block:
        """Return the head at this time."""
        return self.heads[max(bisect_right(self.heads, time, key=lambda x: x[0]) - 1, 0)][1]

    def mine(self, now: float) -> None:
        """Mine a block; in 3 % of the calls, replace the last one or two blocks."""
        if self.random.random() < 0.03:
            self._forks += 1
            depth = self.random.randint(1, 2)
            parent = self.head.at(self.head.ref.number - depth)
            assert parent is not None
            line = parent.line[: parent.ref.number + 1]
            for _ in range(depth + 1):
                parent = after(parent, self._event(parent.state), f"f{self._forks}", line)
                self.blocks[parent.ref.hash] = parent
                self._note(parent)
            self._take(parent, now)
        else:
            mark = self.head.ref.hash.removeprefix(str(self.head.ref.number))
            self._take(after(self.head, self._event(self.head.state), mark, self.head.line), now)

    def _note(self, block: Block) -> None:
        """Note what a block grants: a node may see it before the next block."""
        for node in block.state.nodes.values():
            if node.active and isinstance(node.public_key, PublicKey):
                self.members.setdefault(node.public_key, set()).add(node.token_id)

    def _take(self, block: Block, now: float) -> None:
        self.blocks[block.ref.hash] = block
        self.heads.append((now, block))
        keys = {node.public_key for node in block.state.nodes.values() if node.active}
        self._note(block)
        self._take_rights(block, now)
        for each in self.members:
            if each in keys:
                self.ends.pop(each, None)
            else:
                self.ends.setdefault(each, now)

    @property
    def rights(self) -> set[Right]:
        """Return all rights that tokens ever had."""
        return self._rights

    def _take_rights(self, block: Block, now: float) -> None:
        held: set[Right] = set()
        for node in block.state.nodes.values():
            held |= rights_of(node.token_id, node.tags, routes_of(node))
        self._rights |= held
        policy = block.state.contract.claim.policy
        for each in (None, *POLICIES):
            if each == policy:
                self.former.pop(each, None)
            else:
                self.former.setdefault(each, now)
        for right in self._rights:
            if right in held:
                self.lost.pop(right, None)
            else:
                self.lost.setdefault(right, now)

    def _grant(self, token: TokenId, turn: int = 0) -> Granted:
        return Granted(token, OWNER, f"node-{token}", key(10 * token + turn))

    def _event(self, state: Registry) -> RegistryEvent | None:
        if self.random.random() < 0.6:
            return None
        return some_event(self.random, state)


def some_event(random: Random, state: Registry) -> RegistryEvent:
    """Return a random event that a token's state allows."""
    if random.random() < 0.15:
        return PolicyUpdated(random.choice([None, *POLICIES]))
    if random.random() < 0.05 and len(names := state.contract.tag_names) < len(NAMES):
        return TagDefined(len(names), NAMES[len(names)])
    token = random.choice(TOKENS)
    node = state.get(token)
    if node is None or not node.active:
        return Granted(token, OWNER, f"node-{token}", key(10 * token + random.randrange(5)))
    kind = random.random()
    if kind < 0.35:
        return Revoked(token)
    if kind < 0.55:
        return KeyUpdated(token, key(10 * token + random.randrange(5)))
    if kind < 0.75:
        return TagsUpdated(token, random.randrange(TAGS + 1))
    if kind < 0.95:
        return RoutesUpdated(token, tuple(x for x in ROUTES if random.random() < 0.5))
    return EndpointUpdated(token, PeerEndpoint(udp=Endpoint("192.0.2.1", random.randrange(1, 9))))
