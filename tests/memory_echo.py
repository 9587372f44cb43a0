"""An in-memory `ports.Echo` over peers at given distances."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from dstack_vpn.adapters.clock import SystemClock


@dataclass
class MemoryEcho:
    """Replies for the addresses in ``distances`` after that many seconds."""

    distances: dict[str, float] = field(default_factory=dict)
    problem: str | None = None
    sent: list[str] = field(default_factory=list)
    running: bool = False
    _replied: Callable[[int, str, float], None] = field(default=lambda *_: None)

    def start(self, replied: Callable[[int, str, float], None]) -> str | None:
        self._replied, self.running = replied, True
        return self.problem

    def send(self, address: str, nonce: int) -> float:
        now = SystemClock().now()
        self.sent.append(address)
        if (seconds := self.distances.get(address)) is not None:
            at = now + seconds
            asyncio.get_running_loop().call_later(seconds, lambda: self._replied(nonce, address, at))
        return now

    def close(self) -> None:
        self.running = False
