"""Latency from a registry event to the device.

`frame` measures from the moment when a chain server on this machine sends the log's frame, until
wireguard-go acknowledges the change. `early` measures the same from the frame of a log whose block
is not confirmed yet, for removals. `block` measures from the request to a real dev chain (anvil)
to mine a block with a mint or a revoke, until the same. `api` measures from the same request, with
a mint, a tag or a route in turn, until a reader of the API's ``/events`` has the event.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final

import aiohttp
from tests.anvil import Anvil, key_of, running_anvil
from tests.contracts.model import route
from tests.fake_chain import FakeServer, registry, serve
from tests.fake_chain.chain import PENDING_LOGS
from tests.fake_chain.registry import Token
from tests.integration.views import calldata

from benchmarks.harness import Daemon, Entry, new_key, quiet_namespace, running_daemon, summary
from dstack_vpn.adapters.contracts import calls

EVENTS = 400
PACE = 0.02
"""Seconds between events."""
API: Final = "http://127.0.0.1:8080/events"


async def frame(peers: int) -> dict[str, Any]:
    """Measure events on a device that already has ``peers`` peers."""
    with quiet_namespace() as home:
        async with serve() as server:
            _fill(server, peers)
            async with running_daemon(home, new_key(), RPC_URL=server.ws) as daemon:
                await _filled(daemon, peers)
                sent = _stamp(server)
                seconds = [await _frame_event(server, daemon, sent, peers + i // 2, i) for i in range(EVENTS)]
                return {"peers": peers, **summary(seconds), **_inside(daemon), "memory_mb": daemon.memory()}


async def early(peers: int = 100) -> dict[str, Any]:
    """Measure removals by pre-confirmed events. Each member returns before the next removal."""
    with quiet_namespace() as home:
        async with serve() as server:
            server.pending_logs = PENDING_LOGS
            _fill(server, peers)
            settings = {"RPC_URL": server.ws, "REVOKE_EARLY": "1"}
            async with running_daemon(home, new_key(), **settings) as daemon:
                await _filled(daemon, peers)
                sent, seconds = _stamp(server, PENDING_LOGS), list[float]()
                for turn in range(EVENTS // 2):
                    seconds.append(await _early_removal(server, daemon, sent, turn % peers))
                assert not any(e["event"] in {"early.false", "brake.engaged"} for e in daemon.entries)
                return {"peers": peers, **summary(seconds)}


async def _early_removal(server: FakeServer, daemon: Daemon, sent: list[float], number: int) -> float:
    chain, since = server.chain, len(daemon.entries)
    revoked = registry.revoke(next(t.id for t in chain.head.tokens.values() if _is_alive(t, number)))
    await chain.preconfirm(revoked)
    entry = await daemon.wait(lambda e: e["event"] == "peer.removed", since)
    assert entry["reason"].startswith("revoked in a block that is not confirmed yet")
    await asyncio.sleep(PACE)
    await chain.mine(revoked)
    await chain.mint(number)
    await daemon.wait(lambda e: e["event"] == "peer.set", since)
    await asyncio.sleep(PACE)
    return float(entry["at"] - sent[-1])


def _is_alive(token: Token, number: int) -> bool:
    return token.node_id == f"node-{number}" and not token.revoked


async def _frame_event(
    server: FakeServer, daemon: Daemon, sent: list[float], number: int, turn: int
) -> float:
    since = len(daemon.entries)
    if turn % 2 == 0:
        await server.chain.mint(number)
        entry = await daemon.wait(lambda e: e["event"] == "peer.set", since)
    else:
        await server.chain.revoke(number + 1)
        entry = await daemon.wait(lambda e: e["event"] == "peer.removed", since)
    await asyncio.sleep(PACE)
    return float(entry["at"] - sent[-1])


def _fill(server: FakeServer, peers: int) -> None:
    tokens = {
        n + 1: Token(n + 1, server.chain.accounts[1], f"node-{n}", str(key_of(n))) for n in range(peers)
    }
    server.chain.blocks[-1].tokens.update(tokens)


def _stamp(server: FakeServer, stamped_kind: str = "logs") -> list[float]:
    """Return a list that collects the time of each frame of logs (Unix seconds)."""
    announce, sent = server.chain.announce, list[float]()

    async def stamped(kind: str, items: Sequence[dict[str, Any]]) -> None:
        if kind == stamped_kind and items:
            sent.append(time.time())  # noqa: TID251 - compared with the daemon's time stamps
        await announce(kind, items)

    server.chain.announce = stamped
    return sent


async def _filled(daemon: Daemon, peers: int) -> None:
    await daemon.wait(lambda e: e["event"] == "chain.read")
    if peers > 50:
        await daemon.wait(lambda e: e["event"] == "peers.changed" and e["set"] == peers)
    # Wait for the comparison, the checkpoint and the file that follow the start.
    await asyncio.sleep(2.0 + peers / 1000)


async def block(peers: int = 100) -> dict[str, Any]:
    """Measure events in anvil's blocks."""
    with quiet_namespace() as home:
        async with running_anvil() as anvil:
            await anvil.mint_many(peers)
            await anvil.rpc("evm_setAutomine", False)
            settings = {"RPC_URL": anvil.ws, "CONTRACT_ADDRESS": anvil.contract}
            async with running_daemon(home, new_key(), **settings) as daemon:
                await _filled(daemon, peers)
                seconds = []
                for turn in range(EVENTS):
                    number, since = peers + turn // 2, len(daemon.entries)
                    mint = calls.mint(anvil.accounts[1], f"node-{number}", key_of(number))
                    began = await _mined(anvil, calls.revoke(number + 1) if turn % 2 else mint)
                    wanted = "peer.removed" if turn % 2 else "peer.set"
                    entry = await daemon.wait(_named(wanted), since)
                    seconds.append(entry["at"] - began)
                    await asyncio.sleep(PACE)
                return {"peers": peers, **summary(seconds), **_inside(daemon), "memory_mb": daemon.memory()}


async def api(peers: int = 100) -> dict[str, Any]:
    """Measure changes of nodes and of the policy from their block to a reader of the API."""
    kinds = ("granted", "tags updated", "routes updated", "policy updated")
    found: dict[str, list[float]] = {kind: [] for kind in kinds}
    with quiet_namespace() as home:
        async with running_anvil() as anvil:
            await anvil.mint_many(peers)
            await anvil.send(calldata("defineTag(string)", "web"))
            await anvil.rpc("evm_setAutomine", False)
            settings = {"RPC_URL": anvil.ws, "CONTRACT_ADDRESS": anvil.contract}
            async with (
                running_daemon(home, new_key(), **settings) as daemon,
                aiohttp.ClientSession() as client,
            ):
                await _filled(daemon, peers)
                async with client.get(API, timeout=aiohttp.ClientTimeout(total=None)) as stream:
                    arrived = _arrivals(stream)
                    for turn in range(EVENTS):
                        for kind, data in _changes(anvil, peers, turn).items():
                            began = await _mined(anvil, data)
                            async for at, event in arrived:
                                if event == kind:
                                    found[kind].append(at - began)
                                    break
                            await asyncio.sleep(PACE)
                return {"peers": peers, **{kind: summary(seconds) for kind, seconds in found.items()}}


def _changes(anvil: Anvil, peers: int, turn: int) -> dict[str, bytes]:
    """Return the calldata of one round, by the event's published name."""
    number, network = peers + turn, f"10.{turn // 250}.{turn % 250}.0/24"
    return {
        "granted": calls.mint(anvil.accounts[1], f"node-{number}", key_of(number)),
        "tags updated": calldata("setTags(uint256,uint256)", 1, (turn + 1) % 2),
        "routes updated": calldata("setRoutes(uint256,bytes32[])", 1, [route(network)]),
        "policy updated": calldata("setPolicy(string)", f'{{"grants": []}} // {turn}'),
    }


async def _arrivals(stream: aiohttp.ClientResponse) -> AsyncIterator[tuple[float, str]]:
    """Yield the registry's events of the stream, each with its arrival (Unix seconds)."""
    async for line in stream.content:
        if line.startswith(b"data:"):
            document = json.loads(line.removeprefix(b"data:"))
            now = _now()
            if document.get("kind") == "chain.event":
                yield now, document["event"]
            elif document.get("kind") == "chain.policy":
                yield now, "policy updated"


def _now() -> float:
    """Return the wall clock, with which the daemon's time stamps are compared (Unix seconds)."""
    return time.time()  # noqa: TID251 - no other clock is common to both processes


async def _mined(anvil: Anvil, data: bytes) -> float:
    """Mine a block with a call of the contract; return the time before it (Unix seconds)."""
    transaction = {"from": anvil.accounts[0], "to": anvil.contract, "data": "0x" + data.hex()}
    await anvil.rpc("eth_sendTransaction", {**transaction, "gas": hex(500_000)})
    began = _now()
    await anvil.rpc("evm_mine")
    return began


def _inside(daemon: Daemon) -> dict[str, float]:
    """Return the daemon's share: from the log's arrival to the device's acknowledgement."""
    named = {"peer.set", "peer.removed"}
    own = [e["latency_ms"] for e in daemon.entries if e["event"] in named and e["latency_ms"] is not None]
    return {f"daemon_{name}": value for name, value in summary([ms / 1000 for ms in own[-EVENTS:]]).items()}


def _named(event: str) -> Callable[[Entry], object]:
    return lambda entry: entry["event"] == event
