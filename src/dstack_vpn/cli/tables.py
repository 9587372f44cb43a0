"""Tables for people. Text from the chain is shown as text: no markup, no control characters."""

import time
from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from dstack_vpn.cli.text import printable

_PIPE_WIDTH = 1000
"""Columns: what reads a pipe wants one line for each row, however long."""

_COLOURS = {"ok": "green", "warning": "yellow", "failed": "red"}


def table(title: str, columns: Iterable[str], rows: Iterable[Iterable[object]]) -> Table:
    """A plain table whose cells are never interpreted."""
    result = Table(title=title or None, title_justify="left", box=None, header_style="bold", pad_edge=False)
    for column in columns:
        result.add_column(column, overflow="fold")
    for row in rows:
        result.add_row(*(cell if isinstance(cell, Text) else Text(printable(cell)) for cell in row))
    return result


def lines(values: Iterable[object]) -> Text:
    """A cell with one value a line."""
    return Text("\n".join(map(printable, values)) or "-")


def console() -> Console:
    """Standard output; in a pipe no line is broken."""
    result = Console()
    return result if result.is_terminal else Console(width=_PIPE_WIDTH)


def status_line(health: dict[str, Any], stats: dict[str, Any]) -> Text:
    """The node in one line."""
    chain = stats["chain"]
    return Text.assemble(
        ("● ", _COLOURS.get(health["status"], "red")),
        f"{printable(stats['node_id'])} on {stats['interface']}, ",
        f"{', '.join(stats['addresses']) or 'no address'}; ",
        f"head {printable(chain['head'])}, {stats['tokens']} tokens, {len(stats['peers'])} peers",
    )


def status_view(health: dict[str, Any], stats: dict[str, Any]) -> RenderableType:
    """What `status` shows."""
    components = table(
        "",
        ("component", "status", "reason"),
        (
            (c["name"], Text(c["status"], _COLOURS.get(c["status"], "red")), c["reason"])
            for c in health["components"]
        ),
    )
    peers = table(
        "",
        ("node", "token", "addresses", "endpoint", "by", "handshake", "received", "sent"),
        (
            (
                p["node_id"],
                p["token"],
                lines(a.partition("/")[0] for a in p["addresses"]),
                p["endpoint"],
                p.get("transport"),
                heard(p),
                size(p["rx_bytes"]),
                size(p["tx_bytes"]),
            )
            for p in stats["peers"]
        ),
    )
    return Group(status_line(health, stats), Text(), components, Text(), peers)


def heard(peer: Mapping[str, Any]) -> str | Text:
    """When a peer was last heard, or that it does not answer."""
    if peer.get("state") == "no answer":
        return Text("no answer", "red")
    return ago(peer["last_handshake"])


def ago(moment: float | None) -> str:
    """How long ago a Unix time was."""
    if not moment:
        return "never"
    seconds = max(0, int(time.time() - moment))  # noqa: TID251 - for a person's eyes, not a decision
    return f"{seconds} s ago" if seconds < 120 else f"{seconds // 60} min ago"


def size(count: int | None) -> str:
    """Bytes, for people."""
    value, unit = float(count or 0), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
