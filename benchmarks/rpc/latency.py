"""From a block to the applied peer, with heads that are announced and with polled ones, in pairs.

Two daemons follow one anvil over WebSocket, one with `FOLLOW=economy` and one with `FOLLOW=full`.
Both apply the same changes from the same blocks, and the figure is the difference of each pair.
anvil announces a log to its subscriptions one after the other. Therefore the daemons start in the
other order for the second half of the changes, and a change of each half makes one difference.
"""

import asyncio
import random
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

from tests.anvil import Anvil, key_of, running_anvil
from tests.netns_support import Namespace, connect

from benchmarks.events import _filled, _mined, _named
from benchmarks.harness import Daemon, median_of, new_key, running_daemon, summary
from dstack_vpn.adapters.contracts import calls

PEERS: Final = 100
CHANGES: Final = 200
"""Grants, and as many revocations."""
PAUSE: Final = (0.4, 0.7)
"""Seconds between changes. A change must not meet the effects of the last one, such as the query
for the latest block 0.1 s after a log."""
MODES: Final = ("economy", "full")
KINDS: Final = ("grant", "revocation")

Times = dict[str, list[float]]
"""Seconds by mode."""


async def rpc_latency() -> dict[str, Any]:
    """Measure all changes; return the latencies of both modes, and the differences in ms."""
    found: dict[str, Times] = {kind: {mode: [] for mode in MODES} for kind in KINDS}
    async with AsyncExitStack() as stack:
        chain, *spaces = [stack.enter_context(Namespace("rpc")) for _ in range(1 + len(MODES))]
        home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        hosts = [f"10.99.{number}.1" for number in range(len(MODES))]
        for host, space in zip(hosts, spaces, strict=True):
            connect(chain, space, (f"{host}/24", f"{host[:-1]}2/24"))
        stack.enter_context(chain.entered())
        anvil = await stack.enter_async_context(running_anvil(*(f"--host={host}" for host in hosts)))
        await anvil.mint_many(PEERS)
        await anvil.rpc("evm_setAutomine", False)
        places = dict(zip(MODES, zip(spaces, hosts, strict=True), strict=True))
        for half, modes in enumerate((MODES, MODES[::-1])):
            async with AsyncExitStack() as daemons:
                key, pair = new_key(), dict[str, Daemon]()
                for mode in modes:
                    space, host = places[mode]
                    (folder := home / f"{half}-{mode}").mkdir()
                    running = running_daemon(folder, key, space, **_settings(anvil, host, mode))
                    pair[mode] = await daemons.enter_async_context(running)
                    await _filled(pair[mode], PEERS)
                first = PEERS + half * CHANGES // 2
                for number in range(first, first + CHANGES // 2):
                    mint = calls.mint(anvil.accounts[1], f"node-{number}", key_of(number))
                    await _timed(anvil, pair, mint, "peer.set", found["grant"])
                    await _timed(anvil, pair, calls.revoke(number + 1), "peer.removed", found["revocation"])
    return {"peers": PEERS, **{kind: compared(times) for kind, times in found.items()}}


def _settings(anvil: Anvil, host: str, mode: str) -> dict[str, str]:
    # A resync shares the two cores with the changes, and the two daemons' come at different times.
    return {
        "RPC_URL": f"ws://{host}:{anvil.port}",
        "CONTRACT_ADDRESS": anvil.contract,
        "FOLLOW": mode,
        "SYNC_INTERVAL": "3600s",
    }


async def _timed(anvil: Anvil, pair: dict[str, Daemon], data: bytes, event: str, times: Times) -> None:
    """Mine a block with a change; record the seconds until each daemon has applied it."""
    since = {mode: len(daemon.entries) for mode, daemon in pair.items()}
    began = await _mined(anvil, data)
    for mode, daemon in pair.items():
        entry = await daemon.wait(_named(event), since[mode])
        times[mode].append(entry["at"] - began)
    await asyncio.sleep(random.uniform(*PAUSE))


def compared(times: Times) -> dict[str, Any]:
    """Return the latencies by mode, and the median of the differences with its 95 % confidence.

    Each difference is the mean of a pair in the first half and one in the second, so that the
    order of the subscriptions cancels out.
    """
    pairs = zip(times["economy"], times["full"], strict=True)
    differences = [1000 * (economy - full) for economy, full in pairs]
    half = len(differences) // 2
    both = zip(differences[:half], differences[half:], strict=True)
    return {
        **{mode: summary(seconds) for mode, seconds in times.items()},
        "economy_minus_full_ms": median_of([(one + other) / 2 for one, other in both]),
    }
