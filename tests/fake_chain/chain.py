"""Blocks with their logs and states, mining, and reorgs."""

import hashlib
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.fake_chain import registry
from tests.fake_chain.registry import Contract, Emitted, RevertError, Token, Transaction

CONTRACT = "0x5fbdb2315678afecb367f032d93f642f64180aa3"
ACCOUNTS = tuple("0x" + hashlib.sha256(b"account %d" % i).hexdigest()[:40] for i in range(10))
_DEPLOYED_AT = 1
PENDING_LOGS = "pendingLogs"
"""The subscription to logs of pre-confirmed blocks."""


@dataclass(frozen=True)
class Block:
    number: int
    hash: str
    parent_hash: str
    timestamp: int
    tokens: dict[int, Token]
    logs: tuple[dict[str, Any], ...] = ()
    contract: Contract = field(default_factory=Contract)

    def header(self) -> dict[str, Any]:
        return {
            "number": hex(self.number),
            "hash": self.hash,
            "parentHash": self.parent_hash,
            "timestamp": hex(self.timestamp),
            "logsBloom": "0x" + ("01" if self.logs else "00") * 256,
        }


Announce = Callable[[str, Sequence[dict[str, Any]]], Awaitable[None]]


async def _nobody(kind: str, items: Sequence[dict[str, Any]]) -> None:
    pass


@dataclass
class FakeChain:
    """A chain with one registry. Mining announces the new blocks, and waits until they are sent."""

    chain_id: int = 31337
    contract: str = CONTRACT
    genesis_seed: str = "genesis"
    finality: int = 2
    """The distance of the finalized block from the head."""
    multicall: bool = False
    accounts: tuple[str, ...] = ACCOUNTS
    blocks: list[Block] = field(default_factory=list)
    announce: Announce = _nobody
    _forks: int = 0
    _hints: int = 0

    def __post_init__(self) -> None:
        self._append([])
        self._append([])

    @property
    def head(self) -> Block:
        return self.blocks[-1]

    def _append(self, transactions: Sequence[Transaction]) -> Block:
        number = len(self.blocks)
        parent = self.blocks[-1].hash if self.blocks else "0x" + "0" * 64
        timestamp = 1_700_000_000 + number // 5  # several blocks share a second
        tokens = self.blocks[-1].tokens if self.blocks else {}
        emitted: list[Emitted] = []
        for transaction in transactions:
            tokens, events = transaction(tokens, number, timestamp)
            emitted += events
        contract = self.blocks[-1].contract if self.blocks else Contract()
        for event in emitted:
            contract = event.effect(contract)
        seed = json.dumps([self.genesis_seed, number, parent, self._forks, len(emitted)])
        block_hash = "0x" + hashlib.sha256(seed.encode()).hexdigest()
        logs = tuple(self._log(event, i, number, block_hash) for i, event in enumerate(emitted))
        self.blocks.append(Block(number, block_hash, parent, timestamp, tokens, logs, contract))
        return self.blocks[-1]

    def _log(self, event: Emitted, index: int, number: int, block_hash: str) -> dict[str, Any]:
        return {
            "address": self.contract,
            "topics": list(event.topics),
            "data": "0x" + event.data.hex(),
            "blockNumber": hex(number),
            "blockHash": block_hash,
            "logIndex": hex(index),
            "transactionHash": "0x" + hashlib.sha256(f"{block_hash}{index}".encode()).hexdigest(),
            "transactionIndex": "0x0",
            "removed": False,
        }

    def code_at(self, address: str, block: Block) -> str:
        """Return the result of ``eth_getCode``."""
        is_contract = address.lower() == self.contract and block.number >= _DEPLOYED_AT
        return "0x60016001" if is_contract else "0x"

    def by_hash(self, block_hash: str) -> Block | None:
        return next((block for block in self.blocks if block.hash == block_hash), None)

    # -- for tests ---------------------------------------------------------------------------------

    async def mine(self, *transactions: Transaction) -> Block:
        """Mine a block; raises `RevertError` and mines nothing if a transaction reverts."""
        block = self._append(transactions)
        await self.announce("logs", block.logs)
        await self.announce("newHeads", [block.header()])
        return block

    async def preconfirm(
        self, *transactions: Transaction, ahead: int = 1, announced: bool = True
    ) -> list[dict[str, Any]]:
        """Announce the logs of transactions in a block that is not mined; return the logs.

        The next block has the transactions only if it is mined with them.
        """
        number, tokens, emitted = self.head.number + ahead, self.head.tokens, list[Emitted]()
        for transaction in transactions:
            tokens, events = transaction(tokens, number, self.head.timestamp)
            emitted += events
        self._hints += 1
        block_hash = "0x" + hashlib.sha256(f"pre-confirmed {number} {self._hints}".encode()).hexdigest()
        logs = [self._log(event, i, number, block_hash) for i, event in enumerate(emitted)]
        if announced:
            await self.announce(PENDING_LOGS, logs)
        return logs

    async def mine_empty(self, blocks: int) -> None:
        for _ in range(blocks):
            await self.mine()

    async def reorg(self, depth: int, *transactions: Transaction) -> Block:
        """Replace the last blocks by as many others, the first with these transactions."""
        old = self.blocks[-depth:]
        del self.blocks[-depth:]
        self._forks += 1
        for block in reversed(old):
            await self.announce("logs", [{**log, "removed": True} for log in reversed(block.logs)])
        await self.mine(*transactions)
        await self.mine_empty(depth - 1)
        return self.head

    async def wipe(self) -> None:
        """Restart, like a dev chain without state: another genesis, no tokens."""
        self.genesis_seed += "'"
        self.blocks.clear()
        self.__post_init__()

    async def mint(self, number: int, *, owner: int = 1, key: str | None = None, uri: str = "") -> Block:
        from tests.anvil import key_of

        text = str(key_of(number)) if key is None else key
        return await self.mine(registry.mint(self.accounts[owner], f"node-{number}", text, uri))

    async def revoke(self, token: int) -> Block:
        return await self.mine(registry.revoke(token))


__all__ = ["ACCOUNTS", "CONTRACT", "Block", "FakeChain", "RevertError"]
