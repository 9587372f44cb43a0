"""A daemon in a separate namespace with its log and memory, and helpers for the benchmarks.

A latency is the difference between this process's clock and the time stamp of a log line of the
daemon. Both are the clock of this machine. The daemon writes the line after the device has
acknowledged the change.
"""

import asyncio
import base64
import json
import os
import re
import secrets
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

from tests.netns_support import Namespace, wireguard_go

import dstack_vpn
from dstack_vpn.core.wireguard.keys import PrivateKey
from dstack_vpn.core.wireguard.x25519 import clamp

Entry = dict[str, Any]


class NotMeasurableError(Exception):
    """A requirement of a benchmark that is missing on this machine."""


@dataclass
class Daemon:
    """A running `dstack-vpn run`."""

    process: asyncio.subprocess.Process
    started: float
    """Unix seconds, just before the process was started."""
    entries: list[Entry] = field(default_factory=list)
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    async def read(self) -> None:
        """Collect the log lines until the daemon ends."""
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            entry: Entry = json.loads(line)
            entry["at"] = datetime.fromisoformat(entry["timestamp"]).timestamp()
            self.entries.append(entry)
            self._news.set()

    async def wait(self, wanted: Callable[[Entry], object], since: int = 0, timeout: float = 60.0) -> Entry:
        """Return the first entry from index ``since`` on for which ``wanted`` is true.

        Raises `TimeoutError` after ``timeout`` seconds.
        """
        async with asyncio.timeout(timeout):
            while True:
                self._news.clear()
                for entry in self.entries[since:]:
                    if wanted(entry):
                        return entry
                since = len(self.entries)
                await self._news.wait()

    def memory(self) -> dict[str, float]:
        """Return the resident memory in MB (2^20 bytes), current and maximum."""
        return resident(self.process.pid)


@asynccontextmanager
async def running_daemon(
    home: Path, key: PrivateKey, space: Namespace | None = None, /, **settings: str
) -> AsyncIterator[Daemon]:
    """Start a daemon in ``space``, or in the calling thread's namespaces; end it at the end."""
    secret = home / "wireguard.key"
    secret.touch(mode=0o600)
    secret.write_text(base64.b64encode(key.reveal()).decode())
    program = wireguard_go()
    assert program is not None, "wireguard-go is missing: run scripts/setup test"
    environment = {
        "PATH": f"{Path(program).parent}:/usr/sbin:/usr/bin:/sbin:/bin",
        "PYTHONPATH": str(Path(dstack_vpn.__file__).parents[1]),  # the code of this checkout
        "NETWORK": "local",
        "WIREGUARD_PRIVATE_KEY_FILE": str(secret),
        "STATE_DIR": str(home / "state"),
        "WIREGUARD_CONFIG": str(home / "wg.conf"),
        "LOG_FORMAT": "json",
        **settings,
    }
    started = time.time()  # noqa: TID251 - compared with the daemon's time stamps
    command = [sys.executable, "-m", "dstack_vpn", "run"]
    process = await asyncio.create_subprocess_exec(
        *(command if space is None else space.command(*command)),
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        limit=2**20,
    )
    daemon = Daemon(process, started)
    async with asyncio.TaskGroup() as group:
        group.create_task(daemon.read())
        try:
            yield daemon
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()


@contextmanager
def quiet_namespace() -> Iterator[Path]:
    """Enter a new namespace with the calling thread; yield a temporary folder."""
    with Namespace("bench") as namespace, namespace.entered(), tempfile.TemporaryDirectory() as home:
        yield Path(home)


def resident(pid: int) -> dict[str, float]:
    """Return a process's resident memory in MB (2^20): now (``rss``) and the peak (``hwm``)."""
    found = re.findall(r"Vm(RSS|HWM):\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return {name.lower(): round(int(kilobytes) / 1024, 1) for name, kilobytes in found}


def new_key() -> PrivateKey:
    """Return a new WireGuard key."""
    return clamp(secrets.token_bytes(32))


def summary(seconds: Sequence[float]) -> dict[str, float]:
    """Return the median, the 99th percentile and the maximum in milliseconds."""
    ordered = sorted(seconds)

    def at(share: float) -> float:
        return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1000, 2)

    return {"n": len(ordered), "median_ms": at(0.5), "p99_ms": at(0.99), "max_ms": at(1.0)}


def cores() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0))


def median_of(values: Sequence[float]) -> list[float]:
    """Return the median, and the bounds of its 95 % confidence interval by order statistics."""
    ordered, n = sorted(values), len(values)
    away = int(0.98 * n**0.5) + 1
    lower, upper = max(0, n // 2 - away), min(n - 1, (n - 1) // 2 + away)
    return [round(each, 3) for each in (median(ordered), ordered[lower], ordered[upper])]
