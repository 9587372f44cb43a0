"""``python -m benchmarks [name ...]``: measure, print a table, and write benchmarks/results.json.

Absolute times belong to the machine and its load; quote medians and ratios of one run. Needs root, anvil and
wireguard-go (`scripts/setup test`).
"""

import asyncio
import json
import platform
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from benchmarks import disturbance, events, starts
from benchmarks.harness import cores

RESULTS: Final = Path(__file__).parent / "results.json"

ALL: Final[dict[str, Callable[[], Awaitable[dict[str, Any]]]]] = {
    "frame-100": lambda: events.frame(100),
    "frame-10000": lambda: events.frame(10_000),
    "block-100": lambda: events.block(100),
    "start": starts.chain_and_store,
    "cold-10000": starts.cold,
    "disturbance": disturbance.disturbance,
}


def main() -> int:
    """Run what was asked for, or everything; returns the exit code."""
    names = sys.argv[1:] or list(ALL)
    if unknown := [name for name in names if name not in ALL]:
        print(f"no benchmark {', '.join(unknown)}; there are {', '.join(ALL)}", file=sys.stderr)
        return 2
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results["machine"] = {"cores": cores(), "kernel": platform.release(), "python": platform.python_version()}
    for name in names:
        results[name] = asyncio.run(ALL[name]())  # type: ignore[arg-type]  # all of them are coroutines
        print(f"{name:12} {json.dumps(results[name])}", flush=True)
        RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
