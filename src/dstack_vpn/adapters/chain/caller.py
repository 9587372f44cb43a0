"""RPC calls with retries, a deadline and statistics, over any transport.

Transient failures are retried after pauses with full jitter, within the deadline of the call. A
failure that remains is raised as `RetryError`, so that the caller can use another endpoint.
"""

import asyncio
import itertools
import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeAlias

from dstack_vpn.adapters.chain.faults import UnknownBlockError
from dstack_vpn.adapters.chain.jsonrpc import Json, Request
from dstack_vpn.adapters.chain.method_stats import Calls, MethodStats
from dstack_vpn.adapters.chain.transport import Outcome, Transport
from dstack_vpn.core.limits.backoff import full_jitter
from dstack_vpn.errors import CallRevertedError, ChainError, RetryError

DEADLINE: Final = 10.0
"""Seconds for a call including all retries."""

LAG: Final = 8.0
"""The seconds that a backend of a load balancer may be behind the others. During this time, a query
for an announced block that the endpoint does not know is repeated."""

Call: TypeAlias = tuple[str, Sequence[Json]]
"""A method and its parameters."""

_ATTEMPTS: Final = 4
_BASE: Final = 0.1
_CAP: Final = 2.0
_LAGGING: Final = 0.06
"""The longest pause in seconds between attempts when a backend lags. The next attempt may reach
another backend."""


class Caller:
    """Makes calls over a transport and counts them by method."""

    def __init__(
        self,
        transport: Transport,
        stats: Calls | None = None,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.transport = transport
        self._stats: Calls = {} if stats is None else stats
        self._ids = itertools.count(1)
        self._monotonic = monotonic
        self._draw = draw

    @property
    def stats(self) -> Mapping[str, MethodStats]:
        """Calls, errors and latencies by method."""
        return self._stats

    async def call(
        self,
        method: str,
        *params: Json,
        deadline: float = DEADLINE,
        lag: float = 0.0,
        attempts: int = _ATTEMPTS,
    ) -> Json:
        """Return the result of one call. Raises `ChainError`.

        A query for a block that the endpoint does not know is repeated for ``lag`` seconds.
        """
        (answer,) = await self._with_retries([(method, params)], deadline, lag, attempts)
        if isinstance(answer, ChainError):
            raise answer
        return answer

    async def call_many(
        self,
        calls: Sequence[Call],
        *,
        deadline: float = DEADLINE,
        lag: float = 0.0,
        attempts: int = _ATTEMPTS,
    ) -> list[Json | CallRevertedError]:
        """Return the results of several calls, made together.

        A revert is returned as a result. Any other error is raised.
        """
        answers = await self._with_retries(calls, deadline, lag, attempts)
        for answer in answers:
            if isinstance(answer, ChainError) and not isinstance(answer, CallRevertedError):
                raise answer
        return answers

    async def call_each(
        self,
        calls: Sequence[Call],
        *,
        deadline: float = DEADLINE,
        lag: float = 0.0,
        attempts: int = _ATTEMPTS,
    ) -> list[Outcome]:
        """Return the result or the error of each of several calls, made together."""
        return await self._with_retries(calls, deadline, lag, attempts)

    async def _with_retries(
        self, calls: Sequence[Call], deadline: float, lag: float = 0.0, attempts: int = _ATTEMPTS
    ) -> list[Outcome]:
        """Repeat the calls that failed transiently, for at most ``deadline`` seconds."""
        began = self._monotonic()
        ends, patient_until = began + deadline, began + lag
        answers: list[Outcome] = [None] * len(calls)
        missing = list(range(len(calls)))
        for attempt in itertools.count():
            faults = [answers[i] for i in missing]
            lagging = self._monotonic() < patient_until and all(
                isinstance(fault, UnknownBlockError) for fault in faults
            )
            if attempt and not lagging and attempt >= attempts:
                break
            if attempt and not await self._pause(attempt, faults, ends, lagging=lagging):
                break
            found = await self._attempt([calls[i] for i in missing], ends - self._monotonic())
            for index, answer in zip(missing, found, strict=True):
                answers[index] = answer
            missing = [i for i in missing if isinstance(answers[i], RetryError)]
            if not missing:
                break
        return answers

    async def _pause(self, attempt: int, faults: Sequence[Outcome], ends: float, *, lagging: bool) -> bool:
        """Wait before the next attempt. Return False if the deadline leaves no time for one."""
        requested = [fault.retry_after or 0.0 for fault in faults if isinstance(fault, RetryError)]
        shortest, cap = (_LAGGING / 3, _LAGGING) if lagging else (0.0, _CAP)
        pause = max([full_jitter(attempt, self._draw(), base=_BASE, cap=cap), shortest, *requested])
        if self.transport.failure is not None or self._monotonic() + pause >= ends:
            return False
        await asyncio.sleep(pause)
        return True

    async def _attempt(self, calls: Sequence[Call], timeout: float) -> list[Outcome]:
        """Make one exchange. An error of the whole exchange becomes the result of each call."""
        requests = [Request(next(self._ids), method, list(params)) for method, params in calls]
        began = self._monotonic()
        found: list[Outcome]
        try:
            found = await self.transport.exchange(requests, timeout)
        except ChainError as error:
            found = [error] * len(requests)
        self._count(requests, found, self._monotonic() - began)
        return found

    def _count(self, requests: Sequence[Request], found: Sequence[Outcome], seconds: float) -> None:
        for request, answer in zip(requests, found, strict=True):
            stats = self._stats.setdefault(request.method, MethodStats())
            stats.add(seconds, failed=isinstance(answer, ChainError))
