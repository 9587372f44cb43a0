"""The counting proxy of `rpc-costs` agrees with the daemon; the arithmetic of both benchmarks."""

import json
import socket
from pathlib import Path
from typing import Any

import pytest
from benchmarks.rpc.costs import Period, figures
from benchmarks.rpc.headers import NOTIFICATION, REPLY, TRANSACTIONS, encoded, padded
from benchmarks.rpc.latency import compared
from benchmarks.rpc.meter import LOGS, NEW_HEADS, UNKNOWN, Count, Meter
from tests.fake_chain import FakeServer

from dstack_vpn.adapters.chain import RpcPool
from dstack_vpn.core.chain.usage import NOTIFICATION as PUSHED
from dstack_vpn.core.chain.usage import OTHER, Usage

OVERHEAD = 600
"""More bytes than the connection adds to a call: two headers of HTTP, or a part of a handshake."""
HEADER = {"number": "0x1", "hash": "0xaa", "parentHash": "0xbb", "logsBloom": "0x" + "00" * 256}


def notification(result: Any) -> dict[str, Any]:
    return {
        "jsonrpc": "2.0",
        "method": "eth_subscription",
        "params": {"subscription": "0x1", "result": result},
    }


def reply(result: Any, number: int = 1) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": number, "result": result}


# -- sizes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "size"),
    [(notification(HEADER), NOTIFICATION), (reply(HEADER | {"transactions": []}), REPLY)],
    ids=["newHeads", "a block"],
)
def test_a_header_has_the_size_of_a_public_networks(message: dict[str, Any], size: int) -> None:
    found = padded(json.loads(json.dumps(message)))
    assert len(encoded(found).encode()) == size
    header = found.get("result") or found["params"]["result"]
    assert [header[name] for name in ("number", "hash", "parentHash")] == ["0x1", "0xaa", "0xbb"]
    assert int(header["logsBloom"], 16) == 2**2048 - 1


def test_a_block_lists_the_hashes_of_its_transactions_and_of_others() -> None:
    own = f"0x{'c' * 64}"
    found = padded(reply(HEADER | {"transactions": [own]}))["result"]["transactions"]
    assert found[0] == own
    assert len(set(found)) == TRANSACTIONS
    assert {len(each) for each in found} == {66}


def test_a_header_that_is_larger_already_is_not_cut() -> None:
    found = padded(notification(HEADER | {"extraData": "0" * NOTIFICATION}))
    assert found["params"]["result"]["extraData"] == "0" * NOTIFICATION
    assert found["params"]["result"]["padding"] == ""


@pytest.mark.parametrize(
    "message",
    [
        notification({"address": "0x1", "blockHash": "0xaa", "topics": []}),
        reply(None),
        reply("0x2a"),
        reply([]),
        {"jsonrpc": "2.0", "id": 1, "error": {"code": -32601, "message": "unknown"}},
    ],
    ids=["a log", "no block", "a number", "logs", "an error"],
)
def test_other_messages_are_unchanged(message: dict[str, Any]) -> None:
    assert padded(json.loads(json.dumps(message))) == message


# -- counts ----------------------------------------------------------------------------------------


def test_messages_count_with_the_bytes_of_their_text() -> None:
    meter, pending = Meter(""), dict[Any, str]()
    call = json.dumps({"jsonrpc": "2.0", "id": 7, "method": "eth_chainId", "params": []})
    meter.requested(call, pending)
    answered = meter.received(json.dumps(reply("0x7a69", 7)), pending)
    pushed = meter.received(json.dumps(notification(HEADER)), pending)
    log = meter.received(json.dumps(notification({"topics": ["\u00fc"]})), pending)
    late = meter.received(json.dumps(reply("0x1", 7)), pending)
    assert meter.count().methods == {
        "eth_chainId": Usage(1, len(call), len(answered)),
        NEW_HEADS: Usage(1, 0, len(pushed)),
        LOGS: Usage(1, 0, len(log.encode())),
        UNKNOWN: Usage(0, 0, len(late)),
    }
    assert (meter.count().calls, meter.count().notifications) == (1, 2)


def test_a_batch_counts_each_of_its_calls() -> None:
    meter, pending = Meter(""), dict[Any, str]()
    batch = json.dumps([{"id": n, "method": name, "params": []} for n, name in enumerate(("a", "b", "b"))])
    meter.requested(batch, pending)
    answered = meter.received(json.dumps([reply("0x1", n) for n in (2, 0, 1)]), pending)
    found = meter.count()
    assert {name: use.count for name, use in found.methods.items()} == {"a": 1, "b": 2}
    assert found.bytes == len(batch) + len(answered)
    assert isinstance(json.loads(answered), list)


@pytest.mark.parametrize("scheme", ["ws", "http"])
async def test_a_session_is_counted_as_the_daemon_counts_it(
    fake_chain: FakeServer, scheme: str, tmp_path: Path
) -> None:
    host, port = fake_chain.address
    meter, listening = Meter(f"{host}:{port}"), socket.create_server(("127.0.0.1", 0))
    async with meter.running(listening, tmp_path):
        url = f"{scheme}://127.0.0.1:{listening.getsockname()[1]}"
        pool = RpcPool([url], fake_chain.chain.contract, poll_interval=0.01)
        async with pool.session() as session:
            facts = session.facts()
            await anext(facts)
            for number in range(1, 4):
                await fake_chain.chain.mint(number)
                await anext(facts)
            await session.read_all(await session.head())
        (counted,) = pool.usage().values()
        found = meter.count()
    assert OTHER not in counted
    # A batch is divided in another way, so that the bytes are equal in the sum only.
    ours, theirs = sum(found.methods.values(), Usage()), sum(counted.values(), Usage())
    assert (ours.sent, ours.received) == (theirs.sent, theirs.received)
    pushed = {PUSHED: found.notifications} if scheme == "ws" else {}
    calls = {name: use.count for name, use in found.methods.items() if name not in {NEW_HEADS, LOGS}}
    assert calls | pushed == {name: use.count for name, use in counted.items()}
    assert calls == dict(fake_chain.faults.calls)
    assert found.calls == sum(calls.values())
    assert found.bytes < found.tcp_bytes < found.bytes + OVERHEAD * (found.notifications + found.calls)
    if scheme == "ws":
        assert found.of(NEW_HEADS).received == found.of(NEW_HEADS).count * NOTIFICATION > 0


# -- figures ---------------------------------------------------------------------------------------


def test_figures_are_scaled_and_compared_by_rate() -> None:
    idle = Period(Count({"a": Usage(10, 1000, 3000)}, Usage(1, 5000, 6000)), 100.0)
    busy = Period(Count({"a": Usage(6, 500, 2500), LOGS: Usage(2, 0, 1000)}, Usage(0, 4000, 6000)), 50.0)
    assert figures(idle, 1000.0) == {
        "calls": 100,
        "notifications": 0,
        "kb": 40,
        "tcp_kb": 110,
        "methods": {"a": {"count": 100, "kb": 40}},
    }
    assert figures(busy, 25.0, idle) == {
        "calls": 0.5,
        "notifications": 1,
        "kb": 1,
        "tcp_kb": 2.2,
        "methods": {"a": {"count": 0.5, "kb": 0.5}, LOGS: {"count": 1, "kb": 0.5}},
    }


def test_the_order_of_the_subscriptions_cancels_out() -> None:
    full = [0.010] * 40
    first, second = [0.013] * 20, [0.008] * 20
    assert compared({"economy": first + second, "full": full})["economy_minus_full_ms"] == [0.5, 0.5, 0.5]
