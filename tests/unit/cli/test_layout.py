"""Tables fit 80 columns in a terminal without loss; in a pipe, each row is one plain line."""

import time
from typing import Any

import pytest
from rich.console import Console, RenderableType
from rich.text import Text

from dstack_vpn.cli import node_reading, plan
from dstack_vpn.cli.layout import Layout, Row
from dstack_vpn.cli.tables import status_view
from dstack_vpn.cli.top import top_view

LONG = "web-" + "0123456789." * 5 + "end"
V6 = "fd77:1a2b:3c4d:5e6f:7a8b:9cad:beef:cafe"
KEY = "nOKUqvjA3kwlcXOy3vhPvL1TBVsDVU8sLIjAUZ3ckHc="
RELAY = "vpn.example.org:51820,tls://relay.a-long-name.example.org:443?pin=sha256:" + "ab" * 32
NOW = time.time()  # noqa: TID251  # the output is relative to it


def rendered(view: RenderableType, width: int = 80, *, terminal: bool = False) -> str:
    console = Console(
        width=width, highlight=False, force_terminal=terminal, color_system="standard" if terminal else None
    )
    with console.capture() as captured:
        console.print(view)
    return captured.get()


def fits(said: str) -> bool:
    return max(map(len, said.splitlines())) <= 80


def letters(said: str) -> str:
    """Return the text without whitespace, so that wrapped words compare as equal."""
    return "".join(said.split())


def peer(name: str, **more: object) -> dict[str, Any]:
    return {
        "node_id": name,
        "public_key": name,
        "token": 65533,
        "addresses": ["10.77.255.254/32", f"{V6}/128"],
        "endpoint": f"[{V6}]:51820",
        "transport": "udp",
        "state": "ok",
        "last_handshake": NOW - 34,
        "rx_bytes": 1023 * 1024**3,
        "tx_bytes": 1022 * 1024**2,
        **more,
    }


PEERS = [
    peer("db"),
    peer(LONG, transport="tls", endpoint="127.0.0.1:41822"),
    peer("silent", state="no answer", last_handshake=NOW - 90 * 60),
    peer("new", endpoint=None, last_handshake=None, rx_bytes=0, tx_bytes=None, addresses=[]),
]
HEALTH = {
    "status": "warning",
    "components": [
        {"name": "chain", "status": "ok", "reason": "block 34567890"},
        {
            "name": "endpoints",
            "status": "warning",
            "reason": ("of 3 peers, 1 does not answer: silent; " * 4).strip(),
        },
    ],
}
STATS = {
    "node_id": LONG,
    "interface": "wg0",
    "addresses": ["10.77.0.2", V6],
    "tokens": 4,
    "chain": {"head": 34567890},
    "peers": PEERS,
}
EVENT = {"at": 1.0, "kind": "access.decided", "token": 7, "node": LONG, "granted": False, "reason": "revoked"}
RATES = {p["public_key"]: (1023.9e6, 1023.9e6) for p in PEERS}


@pytest.mark.parametrize("view", [status_view(HEALTH, STATS), top_view(HEALTH, STATS, RATES, [EVENT])])
def test_live_views_fit_80_columns(view: RenderableType) -> None:
    said = rendered(view)
    assert fits(said)
    assert "no answer" in said
    for whole in (LONG, "token 65533", f"[{V6}]:51820", "127.0.0.1:41822", "1023.0 GiB", "1022.0 MiB"):
        assert whole in said


def test_status_has_the_first_address_beside_the_node_and_the_second_below() -> None:
    shown = [line.split() for line in rendered(status_view(HEALTH, STATS)).splitlines()]
    number = next(i for i, line in enumerate(shown) if line[:1] == ["db"])
    assert shown[number][1] == "10.77.255.254"
    assert shown[number][-5:] == ["udp", "1023.0", "GiB", "1022.0", "MiB"]
    assert V6 in shown[number + 1]


def test_status_has_the_round_trips_that_were_measured() -> None:
    peers = [peer("near", round_trip_ms=0.84), peer("far", round_trip_ms=None)]
    near, far = rendered(status_view(HEALTH, STATS | {"peers": peers}), 1000).splitlines()[-2:]
    assert "  round trip 0.8 ms  " in near
    assert "round trip" not in far


def test_a_pipe_has_one_line_a_row_without_colours_or_blanks_at_the_end() -> None:
    said = rendered(status_view(HEALTH, STATS), 1000)
    assert [V6 in line for line in said.splitlines() if line.startswith(("db ", LONG, "silent "))] == [
        True
    ] * 3
    assert "\x1b" not in said
    assert not any(line != line.rstrip() for line in said.splitlines())


def test_a_terminal_has_colours() -> None:
    assert "\x1b[31mno answer" in rendered(status_view(HEALTH, STATS), terminal=True)


def entry(name: str, endpoint: str | None, *, granted: bool) -> dict[str, Any]:
    return {
        "token": 65533,
        "node_id": name,
        "addresses": ["10.77.255.254", V6],
        "owner": "0x70997970c51812dc3a010c7d01b50e0d17dc79c8",
        "endpoint": endpoint,
        "uri_endpoint": None,
        "granted": granted,
        "reason": "active" if granted else "not confirmed by the chain since the start",
    }


def test_node_list_fits_80_columns() -> None:
    rows = [
        node_reading._row(entry(LONG, RELAY, granted=False)),
        node_reading._row(entry("db", None, granted=True)),
    ]
    said = rendered(Layout(("token", "node", "address", "access"), rows))
    assert fits(said)
    for whole in (LONG, V6, RELAY, "since the start"):
        assert letters(whole) in letters(said)


def test_plan_fits_80_columns(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "console", lambda: Console(width=80))
    change = {"action": "update", "node_id": LONG, "token": 65533, "public_key": KEY, "reason": "active"}
    plan._show(
        {
            "interface": "wg0",
            "peers_now": 1,
            "peers_then": 2,
            "block": 34567890,
            "changes": [
                {**change, "details": [f"allowed IPs 10.77.255.254/32, {V6}/128", f"endpoint [{V6}]:1"]}
            ],
            "no_peers": [{"token": 1, "node_id": LONG, "reason": "token id beyond the address range"}],
            "notes": [],
            "networks": [],
        }
    )
    said = capsys.readouterr().out
    assert fits(said)
    assert KEY in said and LONG in said


@pytest.mark.parametrize("width", [80, 1000])
def test_a_cell_that_is_too_wide_is_whole_and_the_next_one_keeps_its_column(width: int) -> None:
    rows = [Row((LONG * 2, "x")), Row(("short", Text("y" * 30)))]
    lines = rendered(Layout(("one", "two"), rows), width).splitlines()
    assert LONG * 2 in letters("".join(lines))
    assert lines[-1].index("y") == lines[0].index("two")


def test_status_has_the_use_of_rpc_endpoints_in_one_line() -> None:
    today = {"calls": 1234, "notifications": 5, "sent": 400_000, "received": 9_600_000}
    rpc: dict[str, Any] = {"today": today, "estimate": None}
    said = rendered(status_view(HEALTH, STATS | {"rpc": rpc}), 1000).splitlines()
    assert said[1] == "RPC today: 1,234 calls, 5 notifications, 10.0 MB"
    rpc["estimate"] = {"calls": 20_000, "notifications": 432_000, "sent": 0, "received": 500_000_000}
    said = rendered(status_view(HEALTH, STATS | {"rpc": rpc}), 1000).splitlines()
    assert said[1].endswith("; about 20,000 calls, 432,000 notifications, 500.0 MB a day")
    rpc["budget"] = 10_000
    said = rendered(status_view(HEALTH, STATS | {"rpc": rpc}), 1000).splitlines()
    assert said[1].endswith("MB a day; 12% of RPC_DAILY_CALLS")
