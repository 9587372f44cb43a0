"""The subscription to logs of pre-confirmed blocks (REVOKE_EARLY).

The name of the subscription differs between providers. Its filter is that of logs. A refusal is
final for the session, and the session goes on without it.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Final, TypeVar

from dstack_vpn.adapters.chain.caller import Caller
from dstack_vpn.adapters.chain.jsonrpc import Json, Notification
from dstack_vpn.adapters.chain.logs import LogReader
from dstack_vpn.core.access.early import EarlySubscription, Preconfirmed
from dstack_vpn.errors import ChainError

TIMEOUT: Final = 3.0
"""Seconds for the reply to the subscription. Heads and logs are not processed until then."""
_UNKNOWN_HASH: Final = "0x" + "0" * 64

_T = TypeVar("_T")


@dataclass(slots=True)
class PreconfirmedLogs:
    """Pre-confirmed events over a WebSocket."""

    caller: Caller
    reader: LogReader
    kind: str | None
    """The name of the subscription; None: it is not wanted."""
    _id: str | None = field(default=None, init=False)

    async def subscribe(self) -> EarlySubscription | None:
        """Subscribe; returns the outcome, or None if it is not wanted.

        Raises `ChainError` if the connection has failed.
        """
        if self.kind is None:
            return None
        url, problem = self.caller.transport.url, None
        try:
            found = await self.caller.call(
                "eth_subscribe", self.kind, self.reader.filter, deadline=TIMEOUT, attempts=1
            )
        except ChainError as error:
            if self.caller.transport.failure is not None:
                raise
            problem = url.redact(str(error))
        else:
            self._id = found if isinstance(found, str) and found else None
            if self._id is None:
                problem = "eth_subscribe: the endpoint replied without a subscription id"
        return EarlySubscription(url.name, problem)

    def fact(self, note: Notification) -> Preconfirmed | None:
        """Return the event of a notification; None if it is another subscription's, or has none.

        Raises `EndpointError` if the result is not a log.
        """
        if self._id is None or note.subscription != self._id:
            return None
        log = note.result
        number = log.get("blockNumber") if isinstance(log, dict) else None
        logged = self.reader.event(_completed(log))
        # A log that is taken back gives no peer back. The next blocks do.
        if logged is None or logged.removed:
            return None
        return Preconfirmed(logged.event, None if number is None else logged.block_number)


def _completed(log: Json) -> Json:
    """Return a log with a position: a pending log may have null in these fields."""
    if not isinstance(log, dict):
        return log
    unknown = {"blockNumber": "0x0", "blockHash": _UNKNOWN_HASH, "logIndex": "0x0"}
    return log | {name: value for name, value in unknown.items() if log.get(name) is None}


async def with_outcome(
    facts: AsyncIterator[_T], outcome: EarlySubscription
) -> AsyncIterator[_T | EarlySubscription]:
    """Yield the outcome after the first fact."""
    first = True
    async for fact in facts:
        yield fact
        if first:
            yield outcome
            first = False
