"""A line below the log in a terminal with a relay's current traffic."""

import asyncio
from typing import Any, Final, Protocol, Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

REFRESH: Final = 1.0
"""Seconds between updates."""


class Relay(Protocol):
    """A relay with statistics."""

    def stats(self) -> dict[str, Any]:
        """Return the state and the counters."""


class LiveLine:
    """A context manager that displays the line; log lines appear above it."""

    def __init__(self) -> None:
        self._live = Live(Text(""), console=Console(stderr=True), auto_refresh=False, transient=True)

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.__exit__(None, None, None)

    async def show(self, view: Relay) -> None:
        """Update the line until cancelled."""
        before = view.stats()
        while True:
            await asyncio.sleep(REFRESH)
            now = view.stats()
            self._live.update(line(before, now, REFRESH), refresh=True)
            before = now


def line(before: dict[str, Any], now: dict[str, Any], seconds: float) -> Text:
    """Return the line for the changes between two readings of the statistics."""
    up, down = (f"{(now[key] - before[key]) * 8 / seconds / 1e6:.1f}" for key in ("bytes_up", "bytes_down"))
    drops = sum(now["drops"].values())
    text = Text.assemble(
        (f" {now['mode']} ", "bold reverse"),
        f" ↑ {up}  ↓ {down} Mbit/s  ",
        f"{now['connected']}/{now['connections']} connected  ",
    )
    if now.get("upstream"):
        text.append(f"{now['upstream']}  ", "cyan")
    if now.get("rtt_ms") is not None:
        text.append(f"rtt {now['rtt_ms']:.1f} ms  ")
    text.append(f"{drops} dropped", "yellow" if drops else "dim")
    return text
