"""`top`: a live view of the running daemon: peers by traffic, and events."""

import contextlib
import http.client
import json
import threading
import time
import urllib.request
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import click
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from dstack_vpn.cli.http import HTTP, fetch, request_to
from dstack_vpn.cli.layout import Layout, Row
from dstack_vpn.cli.options import with_settings
from dstack_vpn.cli.tables import console as standard_output
from dstack_vpn.cli.tables import endpoint_of, last_received, size, status_line
from dstack_vpn.cli.text import printable
from dstack_vpn.cli.words import describe
from dstack_vpn.config import Settings

INTERVAL: Final = 1.0
"""Seconds between updates."""
EVENTS: Final = 12
"""The number of events shown."""
SMOOTH: Final = 0.5
"""The weight of the newest rate in the average."""


@dataclass
class Rates:
    """Bytes per second by peer, from the difference of two readings."""

    _before: dict[str, tuple[float, int, int]] = field(default_factory=dict)
    _rates: dict[str, tuple[float, float]] = field(default_factory=dict)

    def look(self, peers: Iterable[Mapping[str, Any]], now: float) -> dict[str, tuple[float, float]]:
        """Return the rates received and sent by public key; ``now`` is in monotonic seconds."""
        seen = {p["public_key"]: (now, p["rx_bytes"] or 0, p["tx_bytes"] or 0) for p in peers}
        rates = {}
        for key, (at, received, sent) in seen.items():
            then, received_then, sent_then = self._before.get(key, (at, received, sent))
            passed = at - then
            # The counters restart if the device is set up again.
            fresh = [
                max(n - m, 0) / passed if passed else 0.0
                for n, m in ((received, received_then), (sent, sent_then))
            ]
            old = self._rates.get(key, (fresh[0], fresh[1]))
            rates[key] = tuple(SMOOTH * f + (1 - SMOOTH) * o for f, o in zip(fresh, old, strict=True))
        self._before, self._rates = seen, {key: (rate[0], rate[1]) for key, rate in rates.items()}
        return self._rates


@click.command(
    epilog="""\b
Example:
  dstack-vpn top"""
)
@with_settings(*HTTP)
def top(settings: Settings) -> None:
    """Show a live view of the running daemon: peers by traffic, and events. Ctrl-C ends it.

    Without a terminal, the view is printed once.
    """
    console, rates = standard_output(), Rates()
    events: deque[dict[str, Any]] = deque(maxlen=EVENTS)

    def view() -> RenderableType:
        health, stats = fetch(settings, "/health"), fetch(settings, "/stats")
        return top_view(health, stats, rates.look(stats["peers"], time.monotonic()), list(events))

    if not console.is_terminal:
        console.print(view())
        return
    # A daemon thread: it waits in a read, and must not delay the end of the process.
    threading.Thread(target=_follow, args=(settings, events), daemon=True).start()
    with (
        Live(view(), console=console, auto_refresh=False, screen=True) as live,
        contextlib.suppress(KeyboardInterrupt),
    ):
        while True:
            time.sleep(INTERVAL)
            live.update(view(), refresh=True)


def top_view(
    health: dict[str, Any],
    stats: dict[str, Any],
    rates: Mapping[str, tuple[float, float]],
    events: Iterable[dict[str, Any]],
) -> RenderableType:
    """Return the screen: the busiest peers first, the newest event last."""
    peers = sorted(stats["peers"], key=lambda p: sum(rates.get(p["public_key"], (0, 0))), reverse=True)
    problems = [
        Text(f"{c['name']}: {printable(c['reason'])}", "yellow")
        for c in health["components"]
        if c["status"] != "ok"
    ]
    shown = Layout(
        ("node", "handshake", "by", "down", "up"),
        [_peer(peer, *rates.get(peer["public_key"], (0.0, 0.0))) for peer in peers],
    )
    listed = Layout(("when", "event"), [_event(event) for event in events], "Events")
    return Group(status_line(health, stats), *problems, Text(), shown, Text(), listed)


def _peer(peer: Mapping[str, Any], down: float, up: float) -> Row:
    """Return a peer's row; the rates are in bytes per second."""
    carried = f"received {size(peer['rx_bytes'])}, sent {size(peer['tx_bytes'])}"
    return Row(
        (
            peer["node_id"],
            last_received(peer),
            peer.get("transport"),
            f"{size(round(down))}/s",
            f"{size(round(up))}/s",
        ),
        (f"token {peer['token']}", carried, *endpoint_of(peer)),
    )


def _event(event: Mapping[str, Any]) -> Row:
    when = time.strftime("%H:%M:%S", time.localtime(event.get("at", 0)))
    return Row((when, describe(str(event.get("kind", "")), event)))


def _follow(settings: Settings, events: deque[dict[str, Any]]) -> None:
    """Read the daemon's events until the process ends. Absorbs failures, which the screen shows."""
    while True:
        # The request is repeated if the daemon restarts or refuses it.
        with contextlib.suppress(OSError, ValueError, http.client.HTTPException):
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with opener.open(request_to(settings, "/events"), timeout=60) as stream:
                events.extend(parse_events(stream))
        time.sleep(INTERVAL)


def parse_events(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """Yield the data of server-sent events; raises `ValueError` for malformed data."""
    for line in lines:
        if line.startswith(b"data:"):
            found = json.loads(line[5:])
            if isinstance(found, dict):
                yield found
