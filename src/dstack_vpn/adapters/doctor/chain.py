"""Checks of each RPC endpoint, of the clock against the chain's, and of our registration."""

import asyncio
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from dstack_vpn.adapters.admin.reading import RegistryReader, RegistrySnapshot
from dstack_vpn.adapters.chain.caller import Caller
from dstack_vpn.adapters.chain.identity import Target
from dstack_vpn.adapters.chain.session import SessionSettings, open_transport
from dstack_vpn.adapters.chain.url import RpcUrl
from dstack_vpn.core.access.early import EarlySubscription
from dstack_vpn.core.model import BlockRef
from dstack_vpn.core.observe.check import Check, failed, passed, warned
from dstack_vpn.core.observe.health import HEAD_PATIENCE
from dstack_vpn.errors import ChainError

DEADLINE: Final = 15.0
"""Seconds for all calls to one endpoint."""
RANGE: Final = 2_000
"""Blocks whose logs are requested at once."""
SLOW: Final = 1.0
"""Seconds for one call, above which an endpoint is slow."""
CLOCK: Final = 10.0
"""Seconds by which the clock may be off. Expiry and staleness depend on it."""


@dataclass(frozen=True, slots=True)
class ProbedEndpoint:
    """The results for one endpoint."""

    check: Check
    snapshot: RegistrySnapshot | None = None
    ahead: float | None = None
    """Seconds by which our clock is ahead of its newest block. Less than a block's time counts as
    0."""
    early: Check | None = None
    """The check of pre-confirmed events; None if they are not wanted."""


async def endpoint(url: RpcUrl, target: Target, settings: SessionSettings, now: float) -> ProbedEndpoint:
    """Make all calls to an endpoint that the daemon would make. ``now`` is in Unix seconds.

    Absorbs every `ChainError`, which becomes the check's result.
    """
    name = f"rpc {url.way}"
    try:
        async with asyncio.timeout(DEADLINE), open_transport(url) as transport:
            caller = Caller(transport)
            reader = await RegistryReader.open(caller, target, settings)
            return await _examine(name, caller, reader, settings, now)
    except TimeoutError:
        return ProbedEndpoint(failed(name, f"no reply within {DEADLINE:.0f} s", "use another endpoint"))
    except ChainError as error:
        return ProbedEndpoint(
            failed(name, url.redact(str(error)), "check the URL and its key, or use another endpoint")
        )


async def _examine(
    name: str, caller: Caller, reader: RegistryReader, settings: SessionSettings, now: float
) -> ProbedEndpoint:
    latency = statistics.median([await _latency(reader) for _ in range(3)])
    head = await reader.session.head()
    age = now - head.timestamp
    logs = await _logs(caller, reader, head)
    snapshot = await reader.everything() if reader.abi.page_size else None
    paced = settings.block_time is not None
    found = (
        f"chain {reader.session.identity.chain_id}, block {head.number}, {age:.0f} s old, "
        f"{latency * 1000:.0f} ms a call, {reader.abi.name}, {logs or f'{RANGE} blocks of logs at once'}"
    )
    if paced and age > HEAD_PATIENCE:
        check = failed(name, found, "it is behind, or our clock is wrong: use another endpoint")
    elif latency > SLOW:
        check = warned(name, found, "it is slow: put a nearer endpoint first in RPC_URL")
    elif logs:
        check = warned(name, found, "a long gap needs many small requests: another provider allows more")
    else:
        check = passed(name, found)
    early = _early(name, await reader.session.subscribes_early())
    return ProbedEndpoint(check, snapshot, age if paced else None, early)


def _early(name: str, found: EarlySubscription | None) -> Check | None:
    """Return the check of the subscription to pre-confirmed events (REVOKE_EARLY)."""
    if found is None:
        return None
    name = name.replace("rpc", "early revocation", 1)
    if found.problem is None:
        return passed(name, "it accepts the subscription to logs of pre-confirmed blocks")
    return warned(name, found.problem, "set REVOKE_EARLY to the provider's name of the subscription, or to 0")


async def _latency(reader: RegistryReader) -> float:
    """Return the seconds of a small call."""
    began = time.monotonic()
    await reader.session.head()
    return time.monotonic() - began


async def _logs(caller: Caller, reader: RegistryReader, head: BlockRef) -> str:
    """Return the problem with a long range of logs. Empty if it was served."""
    first = max(head.number - RANGE, 0)
    log_filter = {
        "address": reader.session.identity.contract,
        "topics": [sorted(reader.abi.topics)],
        "fromBlock": hex(first),
        "toBlock": hex(head.number),
    }
    try:
        await caller.call("eth_getLogs", log_filter)
    except ChainError as error:
        return f"no logs of {RANGE} blocks at once: {caller.transport.url.redact(str(error))[:120]}"
    return ""


def clock(found: Sequence[ProbedEndpoint]) -> Check:
    """Compare our clock with the newest block of the endpoints."""
    ages = [endpoint.ahead for endpoint in found if endpoint.ahead is not None]
    if not ages:
        return passed("clock", "can't be checked against this chain, which makes blocks on demand")
    age = min(ages, key=abs)
    if age < -1 or age > CLOCK:
        return failed(
            "clock",
            f"{age:+.0f} s from the newest block",
            "set it (chrony, timesyncd): expiry needs it",
        )
    return passed("clock", f"{age:+.0f} s from the newest block")
