"""Policies: from a block to the enforced rule, their cost for packets, and bystanders' losses.

`rules` measures from the frame of a tag's log, or of a policy's, until the kernel has acknowledged
the rules. `throughput` and `round_trips` compare segments of an iperf3 stream, and of pings,
through a tunnel with 0, 100 and 1,000 port rules. `bystander` counts the lost packets of two
members during changes of other members' tags and of the policy. `peers` counts the peers of a node
in a registry of 10,000 tokens in which each may talk to 20.
"""

import asyncio
import json
import re
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

from tests.anvil import key_of
from tests.fake_chain import FakeServer, registry, serve
from tests.fake_chain.registry import Token
from tests.netns_support import Namespace, connect

from benchmarks.disturbance import _start
from benchmarks.events import _stamp
from benchmarks.harness import Daemon, new_key, quiet_namespace, running_daemon, summary
from benchmarks.segments import SETTLE, Segment, rate, received, round_trip, schedule
from benchmarks.segments import summary as summary_of
from dstack_vpn.core.wireguard.keys import PrivateKey
from dstack_vpn.core.wireguard.x25519 import derive

CHANGES: Final = 200
PACE: Final = 0.05
"""Seconds between changes."""
WEB, DB = 1, 2
SEGMENTS: Final = 28
"""Segments with each number of port rules."""
SECONDS: Final = 0.6
"""Of a segment."""
PINGS: Final = 60
"""Segments of pings with each number of port rules."""
STATEFUL: Final = """
table inet host {
  chain input { type filter hook input priority filter; ct state established,related accept; }
  chain output { type filter hook output priority filter; ct state established,related accept; }
}
"""
"""The part of a stateful firewall, such as Docker's or ufw's, that each packet passes."""
KINDS: Final = ("0", "100", "1000")
"""Numbers of port rules."""
BYSTANDER_SECONDS: Final = 60
BYSTANDER_CHANGES: Final = 1000


def _text(port: int, *more: dict[str, list[str]]) -> str:
    grants = [{"src": ["tag:web"], "dst": ["tag:db"], "ip": [f"tcp:{port}"]}, *more]
    return json.dumps({"grants": grants})


async def rules(members: int) -> dict[str, Any]:
    """Measure changes of tags and of the policy on a node with ``members`` members."""
    with quiet_namespace() as home:
        async with serve() as server:
            key = new_key()
            await _fill(server, key, members)
            # An audit of all tokens would share the two cores and the server with the changes.
            settings = {"RPC_URL": server.ws, "LOG_LEVEL_POLICY": "debug", "SYNC_INTERVAL": "3600s"}
            async with running_daemon(home, key, **settings) as daemon:
                await _enforced(daemon, 0, 2 * members)
                await asyncio.sleep(3.0 + members / 1000)
                sent = _stamp(server)
                found: dict[str, list[float]] = {"withdrawn": [], "given": [], "policy": []}
                for turn in range(CHANGES // 2):
                    token = 2 + turn % members
                    for kind, change in (
                        ("withdrawn", registry.set_tags(token, 0)),
                        ("given", registry.set_tags(token, WEB)),
                        ("policy", registry.set_policy(_text(1000 + turn))),
                    ):
                        since = len(daemon.entries)
                        await server.chain.mine(change)
                        entry = await daemon.wait(lambda e: e["event"] == "policy.applied", since)
                        found[kind].append(entry["at"] - sent[-1])
                        await asyncio.sleep(PACE + members / 20_000)
                figures = {kind: summary(seconds) for kind, seconds in found.items()}
                return {"members": members, **figures, "memory_mb": daemon.memory()}


async def _fill(server: FakeServer, key: PrivateKey, members: int) -> None:
    """Register this node as the database, and the others as web servers."""
    await server.chain.mine(registry.define_tag(0, "web"))
    await server.chain.mine(registry.define_tag(1, "db"))
    owner = server.chain.accounts[1]
    tokens = {1: Token(1, owner, "node-us", str(derive(key)), tags=DB)}
    for number in range(members):
        tokens[number + 2] = Token(number + 2, owner, f"node-{number}", str(key_of(number)), tags=WEB)
    server.chain.blocks[-1].tokens.update(tokens)
    await server.chain.mine(registry.set_policy(_text(999)))


async def _enforced(daemon: Daemon, since: int, addresses: int) -> None:
    await daemon.wait(lambda e: e["event"] == "policy.applied" and e["members"] == addresses, since, 120.0)


async def peers(tokens: int = 10_000, each: int = 20) -> dict[str, Any]:
    """Count the peers if each token may talk to 20 others: those of its own tag."""
    with quiet_namespace() as home:
        async with serve() as server:
            key = new_key()
            names = 100
            for index in range(names):
                await server.chain.mine(registry.define_tag(index, f"t{index}"))
            owner = server.chain.accounts[1]
            found = {1: Token(1, owner, "node-us", str(derive(key)), tags=1)}
            for number in range(tokens - 1):
                tag = 0 if number < each else 1 + number % (names - 1)
                found[number + 2] = Token(
                    number + 2, owner, f"node-{number}", str(key_of(number)), tags=1 << tag
                )
            server.chain.blocks[-1].tokens.update(found)
            grants = [{"src": [f"tag:t{i}"], "dst": [f"tag:t{i}"], "ip": ["*"]} for i in range(names)]
            await server.chain.mine(registry.set_policy(json.dumps({"grants": grants})))
            settings = {"RPC_URL": server.ws, "LOG_LEVEL_POLICY": "debug"}
            async with running_daemon(home, key, **settings) as daemon:
                await _enforced(daemon, 0, 2 * each)
                await asyncio.sleep(5.0)
                shown = await _start_here("wg", "show", "wg0", "peers")
                return {"tokens": tokens, "peers": len(shown.split()), "memory_mb": daemon.memory()}


async def _start_here(*command: str) -> str:
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    return output.decode()


# -- packets ---------------------------------------------------------------------------------------


class Pair:
    """Two members with real daemons and a tunnel between them."""

    target = "10.77.0.3"

    def __init__(self, server: FakeServer, a: Namespace, b: Namespace, daemons: list[Daemon]) -> None:
        self.server, self.a, self.b, self.daemons = server, a, b, daemons
        self.text = ""

    @classmethod
    async def make(cls, stack: AsyncExitStack) -> "Pair":
        """Start everything."""
        spaces = [stack.enter_context(Namespace(label)) for label in ("chain", "a", "b")]
        home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for number, space in enumerate(spaces[1:], 1):
            connect(spaces[0], space, (f"10.99.{number}.1/24", f"10.99.{number}.2/24"))
        connect(spaces[1], spaces[2], ("192.168.9.1/24", "192.168.9.2/24"))
        with spaces[0].entered():
            server = await stack.enter_async_context(serve(host="0.0.0.0"))
        await server.chain.mine(registry.define_tag(0, "web"))
        await server.chain.mine(registry.define_tag(1, "db"))
        keys = [new_key() for _ in range(2)]
        for number, key in enumerate(keys, 1):
            mint = registry.mint(server.chain.accounts[1], f"node-{number}", str(derive(key)), "")
            await server.chain.mine(mint)
            await server.chain.mine(registry.set_endpoint(number, f"192.168.9.{number}:51820"))
        daemons = []
        for number, key in enumerate(keys, 1):
            folder = home / str(number)
            folder.mkdir()
            settings = {
                "RPC_URL": f"ws://10.99.{number}.1:{server.port}",
                "CONTRACT_ADDRESS": server.chain.contract,
                "LOG_LEVEL_POLICY": "debug",
            }
            with spaces[number].entered():
                daemons.append(await stack.enter_async_context(running_daemon(folder, key, **settings)))
        for daemon in daemons:
            await daemon.wait(lambda e: e["event"] == "device.addresses" and e["addresses"])
            await daemon.wait(lambda e: e["event"] == "peer.set")
        await _start_and_end(spaces[1], "ping", "-c", "1", "-w", "10", cls.target)
        return cls(server, spaces[1], spaces[2], daemons)

    async def set(self, text: str, settle: float = 0.5) -> None:
        """Set another policy, and wait until both nodes enforce it, and ``settle`` seconds more."""
        if text == self.text:
            return
        self.text = text
        before = [len(daemon.entries) for daemon in self.daemons]
        await self.server.chain.mine(registry.set_policy(text))
        wanted = "policy.applied" if text else "policy.in_force"
        for daemon, since in zip(self.daemons, before, strict=True):
            await daemon.wait(lambda e: e["event"] == wanted, since)
        await asyncio.sleep(settle)


async def _start_and_end(space: Namespace, *command: str) -> str:
    process = await _start(space, *command)
    output, _ = await process.communicate()
    return output.decode()


def _ports(number: int) -> str:
    """Return a policy with that many port rules between everyone, iperf3's and ping among them."""
    listed = [f"tcp:{10_000 + 2 * each}" for each in range(number - 2)]
    grants = [
        {"src": ["*"], "dst": ["*"], "ip": listed[start : start + 10]} for start in range(0, len(listed), 10)
    ]
    grants.append({"src": ["*"], "dst": ["*"], "ip": ["tcp:5201", "icmp:*"]})
    return json.dumps({"grants": grants}, separators=(",", ":"))


async def throughput() -> dict[str, Any]:
    """Compare throughput without a policy, with 100 and with 1,000 port rules."""
    async with AsyncExitStack() as stack:
        found = await _rates(await Pair.make(stack))
    return {"segments": len(found), "mbit_per_s": summary_of(found)}


async def round_trips() -> dict[str, Any]:
    """Compare round trips likewise."""
    return await _round_trips()


async def tracked_round_trips() -> dict[str, Any]:
    """Compare round trips on hosts whose own firewall already tracks connections."""
    return await _round_trips(STATEFUL)


async def _round_trips(firewall: str = "") -> dict[str, Any]:
    found = []
    async with AsyncExitStack() as stack:
        pair = await Pair.make(stack)
        for space in (pair.a, pair.b):
            space.run("nft", "-f", "-", text=firewall)
        for kind in schedule(KINDS, PINGS):
            await pair.set(_policy(kind), SETTLE)
            ping = ("ping", "-n", "-i", "0.002", "-c", "200", pair.target)
            found.append(Segment(kind, round_trip(await _start_and_end(pair.a, *ping))))
    return {"segments": len(found), "round_trip_ms": summary_of(found)}


def _policy(kind: str) -> str:
    return _ports(int(kind)) if kind != "0" else ""


async def _rates(pair: Pair) -> list[Segment]:
    sink = await _start(pair.b, "iperf3", "-s", "-1", "-B", pair.target, "--forceflush")
    assert sink.stdout is not None
    await sink.stdout.readuntil(b"listening")
    # A policy can come within the connection, and then either end may seem to have opened it.
    stream = await _start(pair.a, "iperf3", "-c", pair.target, "--cport", "5201", "-t", "3600")
    try:
        found = []
        for kind in schedule(KINDS, SEGMENTS):
            await pair.set(_policy(kind), SETTLE)
            before = received(pair.b)
            await asyncio.sleep(SECONDS)
            found.append(Segment(kind, rate(before, received(pair.b))))
        return found
    finally:
        for process in (stream, sink):
            process.terminate()
            await process.communicate()


async def bystander() -> dict[str, Any]:
    """Count the lost packets of two members over 1,000 changes of tags and policies."""
    async with AsyncExitStack() as stack:
        pair = await Pair.make(stack)
        always = {"src": ["node:node-1", "node:node-2"], "dst": ["*"], "ip": ["icmp:*", "tcp:5201"]}
        for number in range(3, 23):
            await pair.server.chain.mine(
                registry.mint(pair.server.chain.accounts[1], f"node-{number}", str(key_of(number)), "")
            )
        await pair.set(_text(1, always))
        quiet = await _lost(pair, None)
        busy = await _lost(pair, always)
        return {"without": quiet, "with": busy}


async def _lost(pair: Pair, always: dict[str, list[str]] | None) -> dict[str, Any]:
    count = int((BYSTANDER_SECONDS - 2) * 100)
    ping = await _start(pair.a, "ping", "-q", "-i", "0.01", "-c", str(count), "-W", "1", pair.target)
    before = len(pair.daemons[1].entries)
    changes = 0
    if always is not None:
        chain = pair.server.chain
        for turn in range(BYSTANDER_CHANGES):
            token = 3 + turn % 20
            change = (
                registry.set_policy(_text(1 + turn, always))
                if turn % 2
                else registry.set_tags(token, (turn // 40 + 1) % 2)
            )
            await chain.mine(change)
            changes += 1
            await asyncio.sleep((BYSTANDER_SECONDS - 10) / BYSTANDER_CHANGES)
    output, _ = await ping.communicate()
    found = re.search(r"(\d+) packets transmitted, (\d+) received", output.decode())
    assert found is not None, output
    applied = sum(e["event"] == "policy.applied" for e in pair.daemons[1].entries[before:])
    sent, received = int(found[1]), int(found[2])
    return {"changes": changes, "applied": applied, "sent": sent, "lost": sent - received}


ALL: Final = {
    "policy-rules-100": lambda: rules(100),
    "policy-rules-10000": lambda: rules(10_000),
    "policy-peers": peers,
    "policy-throughput": throughput,
    "policy-round-trip": round_trips,
    "policy-round-trip-tracked": tracked_round_trips,
    "policy-bystander": bystander,
}
