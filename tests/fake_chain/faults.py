"""What can go wrong between us and a chain, to be switched on and off by a test."""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.fake_chain.registry import Token


@dataclass
class Fault:
    """What becomes of a call instead of its answer."""

    status: int | None = None
    """Answer with this HTTP status (over a WebSocket: close the connection)."""
    headers: dict[str, str] = field(default_factory=dict)
    body: str | None = None
    """Answer with this text, whatever was asked."""
    error: dict[str, Any] | None = None
    """Answer with this JSON-RPC error."""
    result: Any = ...
    """Answer with this result."""
    drop: bool = False
    """Cut the connection (HTTP)."""
    stall: bool = False
    """Never answer."""
    times: int | None = None
    """For so many calls; None: until it is removed."""


def _as_it_is(tokens: Mapping[int, Token], block: int) -> Mapping[int, Token]:
    return tokens


@dataclass
class Lies:
    """What an endpoint says about honest blocks, under their honest hashes."""

    state: Callable[[Mapping[int, Token], int], Mapping[int, Token]] = _as_it_is
    """What calls show of the tokens after the block of that number."""
    hides: Callable[[dict[str, Any]], bool] = lambda log: False
    """Logs that it keeps to itself."""
    logs: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Logs of its own making, by the hash of the block that they pretend to be in."""
    stuck_at: int | None = None
    """It has no later block than this, it says."""


@dataclass
class Faults:
    """The faults in force, and the ways in which the chain itself misbehaves."""

    by_method: dict[str, Fault] = field(default_factory=dict)
    """``*`` stands for every method."""
    silent: bool = False
    """New blocks are not announced, though the connection lives."""
    mute_logs: bool = False
    """Logs are not announced."""
    lies_past_head: bool = False
    """``eth_getLogs`` with a toBlock past the head answers ``[]``."""
    most_blocks: int | None = None
    """``eth_getLogs`` refuses longer ranges."""
    range_fault: Fault | None = None
    """What becomes of those; None: the usual error."""
    most_nodes: int | None = None
    """A page of more nodes runs out of gas."""
    no_batches: bool = False
    batches: Fault | None = None
    """What becomes of a batch as a whole; an ``error`` becomes that of each call in it."""
    genesis: Any = ...
    """What block 0 is, or a `Fault`."""
    no_finalized: bool = False
    pruned_before: int = 0
    """State of earlier blocks is gone."""
    stalled: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once a call meets a `Fault.stall`."""
    lies: Lies = field(default_factory=Lies)
    calls: Counter[str] = field(default_factory=Counter)
    """How often each method was called."""

    def take(self, method: str) -> Fault | None:
        """The fault that this call meets."""
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
