"""The configured endpoints in order of preference. Implements `ports.ChainSource`.

A session uses the first endpoint without a pause. An endpoint that fails pauses for a growing time
(`core.limits.backoff`), so the next session uses another one immediately. An endpoint of another
chain pauses longer. The pool does not retry: the caller opens the next session after a failure.

An endpoint that let our tip fall behind the others' heads is followed again only if no other
endpoint is available, for `BEHIND_PAUSE`.

An endpoint that other endpoints contradicted is in quarantine, with all other URLs of its host: for
a minute, and twice as long each time. If all are in quarantine, the pool waits for the first to
leave.
"""

import asyncio
import math
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import structlog

from dstack_vpn.adapters.chain.identity import Target
from dstack_vpn.adapters.chain.memory import EndpointCapabilities
from dstack_vpn.adapters.chain.method_stats import Calls
from dstack_vpn.adapters.chain.session import SessionSettings, open_session
from dstack_vpn.adapters.chain.traffic import Traffic
from dstack_vpn.adapters.chain.url import RpcUrl
from dstack_vpn.core.chain.proxy import DIRECT, Proxies
from dstack_vpn.core.chain.usage import UsageByEndpoint
from dstack_vpn.core.limits.backoff import Backoff
from dstack_vpn.core.model import Address
from dstack_vpn.errors import BehindError, ChainError, FormatError, RetryError, WrongChainError
from dstack_vpn.ports import ChainSession, Quarantine, RegistryAbi

_log = structlog.get_logger()

WRONG_CHAIN_PAUSE: Final = 60.0
"""The least pause, in seconds, of an endpoint that serves another chain."""

BEHIND_PAUSE: Final = 180.0
"""Seconds for which other endpoints are preferred to one that let our tip fall behind."""

QUARANTINE: Final = 60.0
"""Seconds of an endpoint's first quarantine."""
LONGEST_QUARANTINE: Final = 86_400.0
"""The longest quarantine in seconds. The same time without another one resets the duration."""

Open: TypeAlias = Callable[
    [RpcUrl, Target, EndpointCapabilities, SessionSettings], AbstractAsyncContextManager[ChainSession]
]


@dataclass(slots=True)
class _Endpoint:
    url: RpcUrl
    memory: EndpointCapabilities = field(default_factory=EndpointCapabilities)
    backoff: Backoff = field(default_factory=Backoff)
    quarantine: Backoff = field(
        default_factory=lambda: Backoff(QUARANTINE, LONGEST_QUARANTINE, LONGEST_QUARANTINE)
    )
    behind_until: float = -math.inf
    """Until this time, it is followed only if no other endpoint is available. It is still
    queried."""
    contradictions: int = 0
    last_contradiction: str = ""


class RpcPool:
    """Opens sessions on the best available endpoint."""

    def __init__(
        self,
        urls: Sequence[str],
        contract: Address,
        *,
        proxies: Proxies = DIRECT,
        mark: int | None = None,
        chain_id: int | None = None,
        genesis_hash: str | None = None,
        abi: RegistryAbi | None = None,
        block_time: float | None = None,
        poll_interval: float = 1.0,
        head_interval: float | None = None,
        early: str | None = None,
        start_block: int | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        open_: Open = open_session,
    ) -> None:
        """Use ``urls``, in order of preference, through ``proxies``, with ``mark``.

        ``chain_id`` and ``genesis_hash`` are the expected values. A missing one is learned from the
        first endpoint and then expected of the others. Without ``abi``, the contract's is detected.
        For ``block_time``, the intervals (seconds), ``early`` and ``start_block`` see
        `SessionSettings`.
        Raises `FormatError` for an invalid RPC URL, or if there is no URL.
        """
        if not urls:
            raise FormatError("no RPC URL is configured")
        self._endpoints = [_Endpoint(RpcUrl.parse(url, proxies, mark)) for url in urls]
        self.calls: dict[str, Calls] = {}
        """The call statistics by endpoint name. URLs that differ only in secrets share a name."""
        self._traffic: dict[str, Traffic] = {}
        for endpoint in self._endpoints:
            endpoint.memory.calls = self.calls.setdefault(endpoint.url.name, endpoint.memory.calls)
            endpoint.memory.traffic = self._traffic.setdefault(endpoint.url.name, endpoint.memory.traffic)
        self._target = Target(contract.lower(), chain_id, genesis_hash, abi)
        self._settings = SessionSettings(
            block_time, poll_interval, head_interval, early, start_block, monotonic, draw
        )
        self._sleep = sleep
        self._open = open_

    @asynccontextmanager
    async def session(self) -> AsyncIterator[ChainSession]:
        """See `ports.ChainSource.session`."""
        now = self._settings.monotonic()
        endpoint = min(
            self._endpoints, key=lambda x: (max(x.behind_until - now, 0.0) + self._wait(x), x.behind_until)
        )
        while (pause := self._wait(endpoint)) > 0:
            await self._sleep(pause)
        async with self._use(endpoint) as session:
            yield session

    @asynccontextmanager
    async def other(self, *, than: str) -> AsyncIterator[ChainSession]:
        """See `ports.ChainSource.other`."""
        ready = [e for e in self._endpoints if e.url.name != than and not self._wait(e)]
        same = [e for e in self._endpoints if e.url.name == than]
        async with self._use((ready or same or self._endpoints)[0]) as session:
            yield session

    def others(self, *, than: str) -> Sequence[str]:
        """See `ports.ChainSource.others`."""
        own = {e.url.site for e in self._endpoints if e.url.name == than}
        found: dict[str, str] = {}
        for endpoint in self._endpoints:
            if endpoint.url.site not in own and not endpoint.quarantine.wait(self._settings.monotonic()):
                found.setdefault(endpoint.url.site, endpoint.url.name)
        return list(found.values())

    @asynccontextmanager
    async def to(self, name: str) -> AsyncIterator[ChainSession]:
        """See `ports.ChainSource.to`."""
        endpoint = next(e for e in self._endpoints if e.url.name == name)
        while (pause := self._wait(endpoint)) > 0:
            await self._sleep(pause)
        async with self._use(endpoint) as session:
            yield session

    def quarantine(self, name: str, reason: str) -> None:
        """See `ports.ChainSource.quarantine`."""
        now = self._settings.monotonic()
        site = next(e.url.site for e in self._endpoints if e.url.name == name)
        for endpoint in (e for e in self._endpoints if e.url.site == site):
            served = max(now - endpoint.quarantine.ready_at, 0.0) if endpoint.contradictions else 0.0
            endpoint.quarantine = endpoint.quarantine.failed(now, 1.0, served=served)
            endpoint.contradictions += 1
            endpoint.last_contradiction = reason

    def quarantined(self) -> Mapping[str, Quarantine]:
        """See `ports.ChainSource.quarantined`."""
        now = self._settings.monotonic()
        return {
            e.url.name: Quarantine(e.contradictions, e.last_contradiction, e.quarantine.wait(now))
            for e in self._endpoints
            if e.contradictions
        }

    def usage(self) -> UsageByEndpoint:
        """See `ports.ChainSource.usage`."""
        return {name: traffic.usage() for name, traffic in self._traffic.items()}

    def _wait(self, endpoint: _Endpoint) -> float:
        """Return the seconds until the end of the endpoint's pause and quarantine."""
        now = self._settings.monotonic()
        return max(endpoint.backoff.wait(now), endpoint.quarantine.wait(now))

    @asynccontextmanager
    async def _use(self, endpoint: _Endpoint) -> AsyncIterator[ChainSession]:
        """Open a session on an endpoint. If the session fails, the endpoint pauses."""
        connected_at: float | None = None
        try:
            async with self._open(endpoint.url, self._target, endpoint.memory, self._settings) as session:
                connected_at = self._settings.monotonic()
                _log.info("rpc.connected", endpoint=endpoint.url.name, chain_id=session.identity.chain_id)
                yield session
        except ChainError as error:
            self._leave(endpoint, error, connected_at)
            raise

    def _leave(self, endpoint: _Endpoint, error: ChainError, connected_at: float | None) -> None:
        now = self._settings.monotonic()
        if isinstance(error, BehindError):
            endpoint.behind_until = now + BEHIND_PAUSE
        at_least = WRONG_CHAIN_PAUSE if isinstance(error, WrongChainError) else 0.0
        if isinstance(error, RetryError):
            at_least = error.retry_after or 0.0
        endpoint.backoff = endpoint.backoff.failed(
            now,
            self._settings.draw(),
            served=0.0 if connected_at is None else now - connected_at,
            at_least=at_least,
        )
        _log.warning(
            "rpc.endpoint_left",
            endpoint=endpoint.url.name,
            reason=str(error),
            kind=type(error).__name__,
            failures=endpoint.backoff.failures,
            pause=round(self._wait(endpoint), 3),
        )
