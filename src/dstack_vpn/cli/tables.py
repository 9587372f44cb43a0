"""Tables for the terminal. Text from the chain is shown without markup and control characters."""

import time
from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.text import Text

from dstack_vpn.cli.layout import Layout, Row
from dstack_vpn.cli.text import printable

_PIPE_WIDTH = 1000
"""Columns in a pipe, whose readers expect one line per row, of any length."""

_COLOURS = {"ok": "green", "warning": "yellow", "failed": "red"}


def console() -> Console:
    """Return standard output; in a pipe, lines are neither broken nor coloured."""
    result = Console(highlight=False)
    return result if result.is_terminal else Console(width=_PIPE_WIDTH, highlight=False)


def status_line(health: dict[str, Any], stats: dict[str, Any]) -> Text:
    """Return the node's status in one line."""
    chain = stats["chain"]
    return Text.assemble(
        ("● ", _COLOURS.get(health["status"], "red")),
        f"{printable(stats['node_id'])} on {stats['interface']}, ",
        f"{', '.join(stats['addresses']) or 'no address'}; ",
        f"head {printable(chain['head'])}, {stats['tokens']} tokens, {len(stats['peers'])} peers",
    )


def rpc_line(stats: dict[str, Any]) -> list[Text]:
    """Return the use of RPC endpoints in one line; empty if the daemon does not report it."""
    if (rpc := stats.get("rpc")) is None:
        return []
    parts = [f"RPC today: {used(rpc['today'])}"]
    if rpc["estimate"] is not None:
        parts.append(f"about {used(rpc['estimate'])} a day")
    if budget := rpc.get("budget"):
        parts.append(f"{rpc['today']['calls'] / budget:.0%} of RPC_DAILY_CALLS")
    return [Text("; ".join(parts))]


def used(total: Mapping[str, Any]) -> str:
    """Return calls, notifications and megabytes."""
    megabytes = (total["sent"] + total["received"]) / 1e6
    return f"{total['calls']:,} calls, {total['notifications']:,} notifications, {megabytes:,.1f} MB"


def status_view(health: dict[str, Any], stats: dict[str, Any]) -> RenderableType:
    """Return the output of `status`."""
    lines = [status_line(health, stats), *rpc_line(stats)]
    parts = [*lines, Text(), components_view(health), Text(), _peers(stats["peers"])]
    if networks := stats.get("networks"):
        rows = [_network(each) for each in networks]
        parts += [Text(), Layout(("network", "by", "gateways", "problem"), rows)]
    return Group(*parts)


def components_view(health: dict[str, Any]) -> RenderableType:
    """Return a table of the daemon's health components."""
    rows = [
        Row((c["name"], Text(c["status"], _COLOURS.get(c["status"], "red")), c["reason"]))
        for c in health["components"]
    ]
    return Layout(("component", "status", "reason"), rows)


def _peers(peers: Iterable[Mapping[str, Any]]) -> RenderableType:
    columns = ("node", "address", "handshake", "by", "received", "sent")
    return Layout(columns, [_peer(peer) for peer in peers])


def _peer(peer: Mapping[str, Any]) -> Row:
    first, *others = [a.partition("/")[0] for a in peer["addresses"]] or [None]
    traffic = size(peer["rx_bytes"]), size(peer["tx_bytes"])
    return Row(
        (peer["node_id"], first, last_received(peer), peer.get("transport"), *traffic),
        (f"token {peer['token']}", *others, *round_trip(peer), *endpoint_of(peer)),
    )


def _network(network: Mapping[str, Any]) -> Row:
    gateways = ", ".join(network["gateways"])
    return Row((network["network"], network["node_id"], gateways, network["problem"]))


def endpoint_of(peer: Mapping[str, Any]) -> list[str]:
    """Return a remark on a peer's endpoint; empty without one."""
    return [f"endpoint {peer['endpoint']}"] if peer["endpoint"] else []


def round_trip(peer: Mapping[str, Any]) -> list[str]:
    """Return a remark on a peer's round trip; empty if it was not measured lately."""
    found = peer.get("round_trip_ms")
    return [] if found is None else [f"round trip {found:.1f} ms"]


def last_received(peer: Mapping[str, Any]) -> str | Text:
    """Return the age of a peer's last handshake, or that it does not answer."""
    if peer.get("state") == "no answer":
        return Text("no answer", "red")
    return ago(peer["last_handshake"])


def ago(moment: float | None) -> str:
    """Return the age of a Unix time."""
    if not moment:
        return "never"
    seconds = max(0, int(time.time() - moment))  # noqa: TID251 - for display, not for a decision
    return f"{seconds} s ago" if seconds < 120 else f"{seconds // 60} min ago"


def size(count: int | None) -> str:
    """Return a readable number of bytes."""
    value, unit = float(count or 0), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
