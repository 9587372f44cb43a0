"""Faults between the node and a chain, which a test can switch on and off."""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.fake_chain.registry import Contract, Token


@dataclass
class Fault:
    """A replacement of the reply to a call."""

    status: int | None = None
    """Reply with this HTTP status (over a WebSocket: close the connection)."""
    headers: dict[str, str] = field(default_factory=dict)
    body: str | None = None
    """Reply with this text to any request."""
    error: dict[str, Any] | None = None
    """Reply with this JSON-RPC error."""
    result: Any = ...
    """Reply with this result."""
    drop: bool = False
    """Cut the connection (HTTP)."""
    stall: bool = False
    """Never reply."""
    times: int | None = None
    """The number of calls with this fault; None: until it is removed."""


def _as_it_is(tokens: Mapping[int, Token], block: int) -> Mapping[int, Token]:
    return tokens


@dataclass
class Lies:
    """False data of an endpoint about true blocks, with their true hashes."""

    state: Callable[[Mapping[int, Token], int], Mapping[int, Token]] = _as_it_is
    """Returns the tokens that calls show, from the true tokens and the block's number."""
    contract: Callable[[Contract], Contract] = lambda contract: contract
    """Returns the contract's own state that calls show, from the true one."""
    hides: Callable[[dict[str, Any]], bool] = lambda log: False
    """Returns true for logs that the endpoint hides."""
    logs: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Forged logs by the hash of their alleged block."""
    revision_of: Mapping[int, Token] | None = None
    """The tokens whose revision or storage hash it reports; None: those that its calls show."""
    stuck_at: int | None = None
    """The number of the block that the endpoint reports as its head."""


@dataclass
class Faults:
    """The active faults of a server."""

    by_method: dict[str, Fault] = field(default_factory=dict)
    """The faults by method; ``*`` is any method."""
    silent: bool = False
    """New blocks are not announced, although the connection is open."""
    mute_logs: bool = False
    """Logs are not announced."""
    lies_past_head: bool = False
    """``eth_getLogs`` with a toBlock past the head returns ``[]``."""
    most_blocks: int | None = None
    """The maximum range of ``eth_getLogs``."""
    range_fault: Fault | None = None
    """The fault for longer ranges; None: the usual error."""
    most_nodes: int | None = None
    """The maximum page size. Larger pages run out of gas."""
    no_batches: bool = False
    batches: Fault | None = None
    """The fault of a batch as a whole. Its ``error`` is returned for each call of the batch."""
    genesis: Any = ...
    """A replacement of block 0, or a `Fault`."""
    no_finalized: bool = False
    no_code: bool = False
    """It refuses an ``eth_call`` without a contract."""
    pruned_before: int = 0
    """The first block whose state is available."""
    stalled: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a call stalls by a `Fault.stall`."""
    lies: Lies = field(default_factory=Lies)
    calls: Counter[str] = field(default_factory=Counter)
    """The number of calls by method."""

    def take(self, method: str) -> Fault | None:
        """Return the fault of a call, if any, and count it down."""
        for name in (method, "*"):
            fault = self.by_method.get(name)
            if fault is None:
                continue
            if fault.times is not None:
                fault.times -= 1
                if fault.times <= 0:
                    del self.by_method[name]
            return fault
        return None
