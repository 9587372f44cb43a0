"""The calls and bytes of a node to its RPC endpoints, without and with changes of the registry.

All configurations of `CASES` follow one anvil with a block every 2 s at the same time. Each has a
daemon in a separate namespace, and a proxy in front of each of its endpoints (`meter`), which
extends headers to the size of Base's. The registry has 5 tokens, of which one is the node's own.
Multicall3 is deployed, as on Base.

Counting starts when each daemon has filled its device and completed two resyncs. It takes
`RPC_COSTS_MINUTES` minutes (60 by default), with two such groups at once, each on its own anvil:

    idle      no change of the registry; figures are scaled to a day
    changes   `CHANGES` grants and as many revocations, in turns and at equal intervals

The cost of a change is the use from its transaction to the next one, less the idle group's use in
the same time. Effects that last longer than an interval count for the next change: in an hour, an
interval is 3 minutes.
"""

import asyncio
import os
import socket
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
from tests.anvil import Anvil, key_of, running_anvil
from tests.integration.views import Behaviour, artifact, deploy_model
from tests.netns_support import Namespace

from benchmarks.harness import Daemon, NotMeasurableError, new_key, running_daemon
from benchmarks.rpc.meter import Count, Meter, total
from dstack_vpn.adapters.chain.multicall import MULTICALL3
from dstack_vpn.adapters.contracts import calls
from dstack_vpn.core.wireguard.keys import PrivateKey
from dstack_vpn.core.wireguard.x25519 import derive

MINUTES: Final = 60.0
BLOCK_TIME: Final = 2
"""Seconds."""
TOKENS: Final = 5
CHANGES: Final = 10
"""Grants, and as many revocations."""
RESYNCS: Final = 2
"""Resyncs of each daemon before the count starts."""
LIMIT: Final = 240.0
"""Seconds for them."""
PORT: Final = 8545
"""Of each proxy; the hosts differ."""
DAY: Final = 86_400.0
NETWORK: Final = {"economy": "base", "full": "local"}
"""The preset by `FOLLOW`. Base's blocks come every 0.2 s. With its preset and announced heads, a
node queries the latest block after 2 s of silence, which is the time between anvil's blocks."""

_MULTICALL3: Final = Path(__file__).parents[2] / "tests" / "contracts" / "artifacts" / "Multicall3.json"


@dataclass(frozen=True)
class Case:
    """A configuration of a node."""

    name: str
    scheme: str
    follow: str
    contract: str = "ours"
    """``ours``, or ``deployed`` for a model of the contract without `revision()`."""
    endpoints: int = 1
    quorum: int = 1


CASES: Final = (
    Case("ws-economy", "ws", "economy"),
    Case("ws-full", "ws", "full"),
    Case("http-economy", "http", "economy"),
    Case("http-full", "http", "full"),
    Case("quorum-ws-economy", "ws", "economy", endpoints=3, quorum=2),
    Case("quorum-ws-full", "ws", "full", endpoints=3, quorum=2),
    Case("deployed-ws-economy", "ws", "economy", "deployed"),
    Case("deployed-http-economy", "http", "economy", "deployed"),
)


@dataclass(frozen=True)
class Period:
    """The use of a case in a time."""

    count: Count
    seconds: float

    def __add__(self, other: "Period") -> "Period":
        return Period(self.count + other.count, self.seconds + other.seconds)


NOTHING: Final = Period(Count(), 0.0)


@dataclass
class Node:
    """A case that runs."""

    case: Case
    meters: list[Meter]
    space: Namespace
    daemon: Daemon
    since: int = 0
    """The index of the first log entry of the measurement."""

    def count(self) -> Count:
        """Return the use of all endpoints so far."""
        return total(meter.count() for meter in self.meters)

    def warnings(self) -> dict[str, int]:
        """Return the number of each warning and error in the measurement."""
        entries = self.daemon.entries[self.since :]
        return dict(Counter(x["event"] for x in entries if x["level"] in {"warning", "error", "critical"}))

    async def resyncs(self) -> int:
        """Return the number of resyncs, from the metrics of the daemon in its namespace."""
        connector = aiohttp.TCPConnector(socket_factory=lambda _: _unblocked(self.space))
        async with (
            aiohttp.ClientSession(connector=connector) as client,
            client.get("http://127.0.0.1:8080/metrics") as reply,
        ):
            lines = (await reply.text()).splitlines()
        name = "dstack_vpn_chain_resyncs_total "
        return next(int(float(line.removeprefix(name))) for line in lines if line.startswith(name))


async def rpc_costs() -> dict[str, Any]:
    """Measure all cases; return calls and bytes for a day, and for each change."""
    minutes = float(os.environ.get("RPC_COSTS_MINUTES", MINUTES))  # noqa: TID251  # not the product's
    interval = minutes * 60 / (2 * CHANGES)
    async with AsyncExitStack() as stack:
        quiet, busy = [await Group.make(stack) for _ in range(2)]
        for node in (*quiet.nodes, *busy.nodes):
            await _settled(node)
        for node in (*quiet.nodes, *busy.nodes):
            node.since = len(node.daemon.entries)
        idle, added = await asyncio.gather(
            _idle(quiet.nodes, minutes * 60), _changes(busy.nodes, busy.anvil, busy.contracts, interval)
        )
        warned = {node.case.name: node.warnings() for node in busy.nodes}
    found: dict[str, Any] = {
        name: {
            "day": figures(idle[name], DAY),
            **{kind: figures(each[name], interval, idle[name]) for kind, each in added.items()},
            "warnings": warned[name],
        }
        for name in idle
    }
    return {"minutes": minutes, "tokens": TOKENS, "block_time_s": BLOCK_TIME, **found}


@dataclass
class Group:
    """All cases on one anvil."""

    anvil: Anvil
    contracts: dict[str, str]
    """The addresses by kind."""
    nodes: list[Node]

    @classmethod
    async def make(cls, stack: AsyncExitStack) -> "Group":
        """Start everything."""
        anvil, key = await stack.enter_async_context(running_anvil()), new_key()
        contracts = await _registries(anvil, key)
        nodes = [await stack.enter_async_context(_running(case, anvil, contracts, key)) for case in CASES]
        return cls(anvil, contracts, nodes)


async def _registries(anvil: Anvil, key: PrivateKey) -> dict[str, str]:
    """Deploy the contracts with the same tokens; return their addresses by kind."""
    receipt = await anvil.send(bytes.fromhex(artifact(_MULTICALL3)["bytecode"].removeprefix("0x")), to="")
    code = await anvil.rpc("eth_getCode", receipt["contractAddress"], "latest")
    await anvil.rpc("anvil_setCode", MULTICALL3, code)
    found = {"ours": anvil.contract}
    await deploy_model(anvil, Behaviour())
    found["deployed"] = anvil.contract
    for contract in found.values():
        await anvil.send(calls.mint(anvil.accounts[1], "node-us", derive(key)), to=contract)
        for number in range(1, TOKENS):
            await anvil.send(_grant(anvil, number), to=contract)
    await anvil.mine_every(BLOCK_TIME)
    return found


def _grant(anvil: Anvil, number: int) -> bytes:
    return calls.mint(anvil.accounts[1], f"node-{number}", key_of(number))


@asynccontextmanager
async def _running(
    case: Case, anvil: Anvil, contracts: Mapping[str, str], key: PrivateKey
) -> AsyncIterator[Node]:
    """Start a case's proxies and its daemon. All daemons have the same key: they never meet."""
    async with AsyncExitStack() as stack:
        space = stack.enter_context(Namespace("rpc"))
        home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        meters, urls = [], []
        for number in range(1, case.endpoints + 1):
            listening = space.socket()
            listening.bind((host := f"127.0.0.{number}", PORT))
            meters.append(Meter(f"127.0.0.1:{anvil.port}"))
            urls.append(f"{case.scheme}://{host}:{PORT}")
            await stack.enter_async_context(meters[-1].running(listening, home))
        settings = {
            "NETWORK": NETWORK[case.follow],
            "CHAIN_ID": "31337",
            "RPC_URL": ",".join(urls),
            "RPC_QUORUM": str(case.quorum),
            "CONTRACT_ADDRESS": contracts[case.contract],
            "FOLLOW": case.follow,
        }
        daemon = await stack.enter_async_context(running_daemon(home, key, space, **settings))
        yield Node(case, meters, space, daemon)


async def _settled(node: Node) -> None:
    """Wait for the first resyncs, which follow the filling of the device."""
    await node.daemon.wait(lambda e: e["event"] == "web.listening")
    async with asyncio.timeout(LIMIT):
        while await node.resyncs() < RESYNCS:  # noqa: ASYNC110 - another process's state
            await asyncio.sleep(1.0)


async def _idle(nodes: Sequence[Node], seconds: float) -> dict[str, Period]:
    before = [node.count() for node in nodes]
    await asyncio.sleep(seconds)
    return {
        node.case.name: Period(node.count() - count, seconds)
        for node, count in zip(nodes, before, strict=True)
    }


async def _changes(
    nodes: Sequence[Node], anvil: Anvil, contracts: Mapping[str, str], interval: float
) -> dict[str, dict[str, Period]]:
    """Make the changes; return the use in the intervals that begin with each kind."""
    loop = asyncio.get_running_loop()
    found = {kind: {node.case.name: NOTHING for node in nodes} for kind in ("grant", "revocation")}
    due = loop.time()
    for turn in range(2 * CHANGES):
        before = [(node.count(), len(node.daemon.entries)) for node in nodes]
        number = TOKENS + turn // 2
        kind, event, data = (
            ("revocation", "peer.removed", calls.revoke(number + 1))
            if turn % 2
            else ("grant", "peer.set", _grant(anvil, number))
        )
        for contract in contracts.values():
            await anvil.send(data, to=contract)
        due += interval
        await asyncio.sleep(due - loop.time())
        for node, (count, since) in zip(nodes, before, strict=True):
            if not any(entry["event"] == event for entry in node.daemon.entries[since:]):
                raise NotMeasurableError(f"{node.case.name} has not applied a {kind} in {interval:.0f} s")
            found[kind][node.case.name] += Period(node.count() - count, interval)
    return found


def figures(use: Period, seconds: float, less: Period = NOTHING) -> dict[str, Any]:
    """Return the use in ``seconds`` at the rate of a period, less the rate of another one."""

    def value(read: Callable[[Count], float]) -> float:
        return seconds * (
            read(use.count) / use.seconds - (read(less.count) / less.seconds if less.seconds else 0.0)
        )

    def of(name: str) -> dict[str, float]:
        size = value(lambda count: count.of(name).sent + count.of(name).received)
        return {"count": round(value(lambda count: count.of(name).count), 1), "kb": round(size / 1000, 1)}

    return {
        "calls": round(value(lambda count: count.calls), 1),
        "notifications": round(value(lambda count: count.notifications), 1),
        "kb": round(value(lambda count: count.bytes) / 1000, 1),
        "tcp_kb": round(value(lambda count: count.tcp_bytes) / 1000, 1),
        "methods": {name: of(name) for name in sorted({*use.count.methods, *less.count.methods})},
    }


def _unblocked(space: Namespace) -> socket.socket:
    """Return a socket for asyncio that connects inside a namespace."""
    found = space.socket()
    found.setblocking(False)
    return found
