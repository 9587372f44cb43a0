"""Packets that other members lose during a thousand membership changes.

Two nodes with real daemons exchange a ping every 2 ms and an iperf3 stream. They do so once without
changes, because two busy cores lose packets anyway, and once while other members are added and
removed.
"""

import asyncio
import re
import tempfile
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from tests.anvil import key_of
from tests.fake_chain import FakeServer, registry, serve
from tests.netns_support import Namespace, connect

from benchmarks.harness import Daemon, Entry, new_key, running_daemon
from dstack_vpn.core.wireguard.x25519 import derive

CHANGES = 1000
SECONDS = 25
STREAM = "100M"
"""Bits per second of the iperf3 stream. Two cores can still reply to pings at this rate."""


async def disturbance() -> dict[str, Any]:
    """Count the lost packets with and without the changes."""
    async with AsyncExitStack() as stack:
        spaces = [stack.enter_context(Namespace(label)) for label in ("chain", "a", "b")]
        home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for number, space in enumerate(spaces[1:], 1):
            connect(spaces[0], space, (f"10.99.{number}.1/24", f"10.99.{number}.2/24"))
        connect(spaces[1], spaces[2], ("192.168.9.1/24", "192.168.9.2/24"))
        with spaces[0].entered():
            server = await stack.enter_async_context(serve(host="0.0.0.0"))
        keys = [new_key() for _ in range(2)]
        for number, key in enumerate(keys, 1):
            mint = registry.mint(server.chain.accounts[1], f"node-{number}", str(derive(key)), "")
            await server.chain.mine(mint)
            await server.chain.mine(registry.set_endpoint(number, f"192.168.9.{number}:51820"))
        daemons = []
        for number, key in enumerate(keys, 1):
            folder = home / str(number)
            folder.mkdir()
            url = f"ws://10.99.{number}.1:{server.port}"
            with spaces[number].entered():
                daemons.append(
                    await stack.enter_async_context(
                        running_daemon(folder, key, RPC_URL=url, CONTRACT_ADDRESS=server.chain.contract)
                    )
                )
        for daemon in daemons:
            await daemon.wait(lambda e: e["event"] == "device.addresses" and e["addresses"])
            await daemon.wait(lambda e: e["event"] == "peer.set")
        quiet = await _traffic(spaces[1], spaces[2], None, daemons)
        busy = await _traffic(spaces[1], spaces[2], server, daemons)
        return {"changes": CHANGES, "without": quiet, "with": busy}


async def _traffic(
    a: Namespace, b: Namespace, server: FakeServer | None, daemons: list[Daemon]
) -> dict[str, Any]:
    """Run ping and stream once; with a server, add and remove members during the run."""
    target = "10.77.0.3"
    sink = await _start(b, "iperf3", "-s", "-1", "-B", target, "--forceflush")
    assert sink.stdout is not None
    await sink.stdout.readuntil(b"listening")
    stream = await _start(a, "iperf3", "-c", target, "-t", str(SECONDS), "-b", STREAM)
    count = (SECONDS - 2) * 500
    ping = await _start(a, "ping", "-q", "-i", "0.002", "-c", str(count), "-W", "1", target)
    changes = 0 if server is None else await _changes(server, daemons)
    output, _ = await ping.communicate()
    for process in (stream, sink):
        await process.communicate()
    found = re.search(r"(\d+) packets transmitted, (\d+) received", output.decode())
    longest = re.search(r"= [\d.]+/[\d.]+/([\d.]+)/", output.decode())
    assert found is not None, output
    return {
        "changes": changes,
        "sent": int(found[1]),
        "lost": int(found[1]) - int(found[2]),
        "slowest_ms": float(longest[1]) if longest else None,
    }


async def _changes(server: FakeServer, daemons: list[Daemon]) -> int:
    """Mint and revoke over the run; return the number of changes that both daemons applied."""
    before = [len(daemon.entries) for daemon in daemons]
    for turn in range(CHANGES):
        token = 3 + turn // 2
        if turn % 2 == 0:
            await server.chain.mine(
                registry.mint(server.chain.accounts[1], f"node-{token}", str(key_of(token)), "")
            )
        else:
            await server.chain.mine(registry.revoke(token))
        await asyncio.sleep((SECONDS - 8) / CHANGES)
    applied = []
    for daemon, since in zip(daemons, before, strict=True):
        last = 3 + (CHANGES - 1) // 2
        await daemon.wait(_removal_of(last), since)
        applied.append(sum(e["event"] in {"peer.set", "peer.removed"} for e in daemon.entries[since:]))
    return min(applied)


async def _start(space: Namespace, *command: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *space.command(*command), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )


def _removal_of(token: int) -> Callable[[Entry], object]:
    return lambda entry: entry["event"] == "peer.removed" and entry["token"] == token
