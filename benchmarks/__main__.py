"""Run benchmarks, print their figures, and write benchmarks/results.json.

``python -m benchmarks [name ...]`` runs all benchmarks, or those with the given names. A name also
selects all names that begin with it and a dash: ``relay`` selects all benchmarks of the relay.
``rpc-costs`` takes two hours, and runs only if it is named.

Absolute times depend on the machine and its load. Quote medians and ratios of one run. Root, anvil
and wireguard-go are required (`scripts/setup test`); for the containers also Docker; for the relay
also Mullvad's programs and a C compiler.
"""

import asyncio
import inspect
import json
import platform
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from benchmarks import (
    adversaries,
    api,
    audits,
    clients,
    containers,
    disturbance,
    events,
    networks,
    packet_cost,
    policy,
    quorum,
    relay,
    routes,
    rpc,
    starts,
)
from benchmarks.harness import NotMeasurableError, cores

RESULTS: Final = Path(__file__).parent / "results.json"

Figures = dict[str, Any]

ALL: Final[dict[str, Callable[[], Awaitable[Figures] | Figures]]] = {
    "frame-100": lambda: events.frame(100),
    "frame-10000": lambda: events.frame(10_000),
    "revoke-early": events.early,
    "block-100": lambda: events.block(100),
    "rights-100": lambda: events.api(100),
    "start": starts.chain_and_store,
    "cold-10000": starts.cold,
    "disturbance": disturbance.disturbance,
    **adversaries.ALL,
    **api.ALL,
    **audits.ALL,
    **clients.ALL,
    **containers.ALL,
    **networks.ALL,
    **packet_cost.ALL,
    **policy.ALL,
    **quorum.ALL,
    **relay.ALL,
    **routes.ALL,
    **rpc.ALL,
}
ONLY_BY_NAME: Final = frozenset({"rpc-costs"})
"""Benchmarks of two hours."""


def main() -> int:
    """Run the named benchmarks, or all; return the exit code."""
    selected = sys.argv[1:] or [name for name in ALL if name not in ONLY_BY_NAME]
    if unknown := [name for name in selected if not _matches(name)]:
        print(f"unknown benchmark {', '.join(unknown)}; choose from {', '.join(ALL)}", file=sys.stderr)
        return 2
    results: Figures = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results["machine"] = {"cores": cores(), "kernel": platform.release(), "python": platform.python_version()}
    for name in dict.fromkeys(match for pattern in selected for match in _matches(pattern)):
        try:
            found = ALL[name]()
            results[name] = asyncio.run(_awaited(found)) if inspect.isawaitable(found) else found
        except NotMeasurableError as error:
            print(f"{name:12} NOT MEASURED: {error}", flush=True)
            continue
        if name not in relay.ALL:
            print(f"{name:12} {json.dumps(results[name])}", flush=True)
        RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    return 0


def _matches(name: str) -> list[str]:
    return [known for known in ALL if known == name or known.startswith(f"{name}-")]


async def _awaited(found: Awaitable[Figures]) -> Figures:
    return await found


if __name__ == "__main__":
    sys.exit(main())
