"""A transport with a scripted answer for each method."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from dstack_vpn.adapters.chain.caller import Caller
from dstack_vpn.adapters.chain.jsonrpc import Json, Notification, Request
from dstack_vpn.adapters.chain.transport import Outcome
from dstack_vpn.adapters.chain.url import RpcUrl
from dstack_vpn.errors import ChainError, EndpointError

Answer = Json | ChainError | Callable[[Sequence[Json]], Outcome]


@dataclass
class ScriptedTransport:
    """A `transport.Transport` that reports each method without a scripted answer as missing."""

    answers: Mapping[str, Answer]
    url: RpcUrl = field(default_factory=lambda: RpcUrl.parse("http://scripted.example"))
    failure: ChainError | None = None
    asked: list[str] = field(default_factory=list)

    async def exchange(self, requests: Sequence[Request], timeout: float) -> list[Outcome]:
        await asyncio.sleep(0)
        return [self._answer(request) for request in requests]

    async def notification(self, timeout: float) -> Notification | None:
        await asyncio.sleep(timeout)
        return None

    def _answer(self, request: Request) -> Outcome:
        self.asked.append(request.method)
        answer = self.answers.get(request.method, EndpointError(f"{request.method}: no such method"))
        return answer(request.params) if callable(answer) else answer


def caller_of(transport: ScriptedTransport) -> Caller:
    return Caller(transport, draw=lambda: 0.0)
