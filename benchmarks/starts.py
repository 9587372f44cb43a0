"""Start times: from the process's creation to a tunnel with all its peers.

`chain`: the state directory is empty, and the node reads the registry from anvil. `store`: no
endpoint replies, and the node reads the state directory. `cold`: as `chain`, with a registry of
10,000 tokens.
"""

import asyncio
from statistics import median
from typing import Any

from tests.anvil import running_anvil

from benchmarks.harness import Daemon, new_key, quiet_namespace, running_daemon

RUNS = 5


async def chain_and_store(peers: int = 100) -> dict[str, Any]:
    """Measure both kinds of start; return the medians of `RUNS` runs, in seconds."""
    found: dict[str, list[float]] = {"chain_s": [], "store_s": []}
    memory: dict[str, float] = {}
    with quiet_namespace() as base:
        async with running_anvil() as anvil:
            await anvil.mint_many(peers)
            settings = {"RPC_URL": anvil.ws, "CONTRACT_ADDRESS": anvil.contract}
            for run in range(RUNS):
                home, key = base / str(run), new_key()
                home.mkdir()
                async with running_daemon(home, key, **settings) as daemon:
                    found["chain_s"].append(await _up(daemon, peers))
                    await asyncio.sleep(2.0)
                    memory = daemon.memory()
                async with running_daemon(home, key, **{**settings, "RPC_URL": "ws://127.0.0.1:1"}) as daemon:
                    found["store_s"].append(await _up(daemon, peers))
    return {"peers": peers, **{k: round(median(v), 3) for k, v in found.items()}, "memory_mb": memory}


async def cold(tokens: int = 10_000) -> dict[str, Any]:
    """Measure one start with a large registry and an empty state directory."""
    with quiet_namespace() as home:
        async with running_anvil() as anvil:
            await anvil.mint_many(tokens)
            settings = {"RPC_URL": anvil.ws, "CONTRACT_ADDRESS": anvil.contract}
            async with running_daemon(home, new_key(), **settings) as daemon:
                seconds = await _up(daemon, tokens)
                await asyncio.sleep(5.0)
                return {"tokens": tokens, "seconds": round(seconds, 2), "memory_mb": daemon.memory()}


async def _up(daemon: Daemon, peers: int) -> float:
    up = await daemon.wait(lambda e: e["event"] == "device.up")
    filled = await daemon.wait(lambda e: e["event"] == "peers.changed" and e["set"] == peers)
    return float(max(up["at"], filled["at"]) - daemon.started)
