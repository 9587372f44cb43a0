"""``python -m benchmarks [name ...]``: measure, print a table, and write benchmarks/results.json.

A name stands also for all that begin with it and a dash: ``relay`` is everything about the relay.

Absolute times belong to the machine and its load; quote medians and ratios of one run. Needs root,
anvil and wireguard-go (`scripts/setup test`), for the containers Docker, and for the relay also
Mullvad's programs and a C compiler.
"""

import asyncio
import inspect
import json
import platform
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from benchmarks import adversaries, api, containers, disturbance, events, quorum, relay, starts
from benchmarks.harness import NotMeasurableError, cores

RESULTS: Final = Path(__file__).parent / "results.json"

Figures = dict[str, Any]

ALL: Final[dict[str, Callable[[], Awaitable[Figures] | Figures]]] = {
    "frame-100": lambda: events.frame(100),
    "frame-10000": lambda: events.frame(10_000),
    "block-100": lambda: events.block(100),
    "start": starts.chain_and_store,
    "cold-10000": starts.cold,
    "disturbance": disturbance.disturbance,
    **adversaries.ALL,
    **api.ALL,
    **containers.ALL,
    **quorum.ALL,
    **relay.ALL,
}


def main() -> int:
    """Run what was asked for, or everything; returns the exit code."""
    asked = sys.argv[1:] or list(ALL)
    if unknown := [name for name in asked if not _meant(name)]:
        print(f"no benchmark {', '.join(unknown)}; there are {', '.join(ALL)}", file=sys.stderr)
        return 2
    results: Figures = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results["machine"] = {"cores": cores(), "kernel": platform.release(), "python": platform.python_version()}
    for name in dict.fromkeys(one for several in asked for one in _meant(several)):
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


def _meant(name: str) -> list[str]:
    return [known for known in ALL if known == name or known.startswith(f"{name}-")]


async def _awaited(found: Awaitable[Figures]) -> Figures:
    return await found


if __name__ == "__main__":
    sys.exit(main())
