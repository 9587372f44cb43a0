"""Retries and deadlines over a scripted transport."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from dstack_vpn.adapters.chain.caller import Caller
from dstack_vpn.adapters.chain.jsonrpc import Notification, Request
from dstack_vpn.adapters.chain.transport import Outcome
from dstack_vpn.adapters.chain.url import RpcUrl
from dstack_vpn.errors import CallRevertedError, ChainError, EndpointError, RangeError, RetryError


@dataclass
class Scripted:
    """A transport with a list of exchanges. An error in the list fails the whole exchange."""

    script: list[list[Outcome] | ChainError]
    url: RpcUrl = field(default_factory=lambda: RpcUrl.parse("ws://node.example"))
    failure: ChainError | None = None
    asked: list[list[str]] = field(default_factory=list)
    now: float = 0.0
    takes: float = 0.0

    async def exchange(self, requests: Sequence[Request], timeout: float) -> list[Outcome]:
        self.asked.append([request.method for request in requests])
        self.now += self.takes
        answer = self.script.pop(0)
        if isinstance(answer, ChainError):
            raise answer
        return answer

    async def notification(self, timeout: float) -> Notification | None:
        raise AssertionError("not asked for here")


def caller(transport: Scripted) -> Caller:
    return Caller(transport, monotonic=lambda: transport.now, draw=lambda: 0.0)


async def test_a_transient_error_is_met_with_another_attempt() -> None:
    transport = Scripted([[RetryError("later")], RetryError("busy"), ["0x1"]])
    calls = caller(transport)
    assert await calls.call("eth_chainId") == "0x1"
    stats = calls.stats["eth_chainId"]
    assert (stats.count, stats.errors) == (3, 2)


async def test_attempts_are_bounded() -> None:
    transport = Scripted([[RetryError("later")]] * 9)
    with pytest.raises(RetryError):
        await caller(transport).call("eth_chainId")
    assert len(transport.asked) == 4


async def test_a_wish_past_the_deadline_ends_the_call_and_is_passed_on() -> None:
    transport = Scripted([[RetryError("later", retry_after=30.0)]] * 2)
    with pytest.raises(RetryError) as caught:
        await caller(transport).call("eth_chainId", deadline=10.0)
    assert caught.value.retry_after == 30.0
    assert len(transport.asked) == 1


async def test_the_deadline_covers_all_attempts() -> None:
    transport = Scripted([[RetryError("later")]] * 9, takes=6.0)
    with pytest.raises(RetryError):
        await caller(transport).call("eth_chainId", deadline=10.0)
    assert len(transport.asked) == 2


@pytest.mark.parametrize("error", [RangeError("less"), EndpointError("gone"), CallRevertedError("no")])
async def test_what_waiting_cannot_mend_is_raised_at_once(error: ChainError) -> None:
    transport = Scripted([[error]])
    with pytest.raises(type(error)):
        await caller(transport).call("eth_call")


async def test_a_dead_connection_is_not_asked_again() -> None:
    transport = Scripted([[RetryError("later")]] * 2, failure=EndpointError("closed"))
    with pytest.raises(RetryError):
        await caller(transport).call("eth_call")
    assert len(transport.asked) == 1


async def test_only_what_is_missing_is_asked_again() -> None:
    transport = Scripted([["a", RetryError("later"), CallRevertedError("no")], ["b"]])
    first, second, third = await caller(transport).call_many([("x", ()), ("y", ()), ("z", ())])
    assert (first, second) == ("a", "b")
    assert isinstance(third, CallRevertedError)
    assert transport.asked == [["x", "y", "z"], ["y"]]


async def test_many_calls_raise_what_is_no_revert() -> None:
    with pytest.raises(RangeError):
        await caller(Scripted([["a", RangeError("less")]])).call_many([("x", ()), ("y", ())])
