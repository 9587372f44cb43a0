"""The live view: rates from counters, the busiest peer first, no control codes from the chain."""

from typing import Any

import pytest
from rich.console import Console

from dstack_vpn.cli.top import Rates, parse_events, top_view

CHAIN = {"name": "chain", "status": "failed", "reason": "no \x1b[2J block"}
HEALTH: dict[str, Any] = {
    "status": "warning",
    "components": [{"name": "chain", "status": "failed", "reason": "no \x1b[2J block"}],
}
STATS: dict[str, Any] = {
    "node_id": "a",
    "interface": "wg0",
    "addresses": ["10.77.0.2"],
    "tokens": 2,
    "chain": {"head": 7},
    "peers": [],
}


def peer(key: str, received: int, sent: int) -> dict[str, Any]:
    return {
        "public_key": key,
        "node_id": f"node-{key}",
        "token": 1,
        "endpoint": None,
        "transport": "udp",
        "last_handshake": None,
        "rx_bytes": received,
        "tx_bytes": sent,
    }


def test_rates_are_bytes_a_second_and_settle() -> None:
    rates = Rates()
    assert rates.look([peer("x", 1000, 0)], 0.0) == {"x": (0.0, 0.0)}
    assert rates.look([peer("x", 3000, 100)], 1.0)["x"] == pytest.approx((1000.0, 50.0))
    looks = [rates.look([peer("x", 1000 + 2000 * n, 100 * n)], float(n)) for n in range(2, 30)]
    assert looks[-1]["x"] == pytest.approx((2000.0, 100.0), rel=0.01)


def test_a_device_that_was_set_up_again_counts_from_nothing() -> None:
    rates = Rates()
    rates.look([peer("x", 1_000_000, 1_000_000)], 0.0)
    assert rates.look([peer("x", 10, 10)], 1.0)["x"] == (0.0, 0.0)


def test_the_busiest_peer_is_first_and_hostile_text_is_harmless() -> None:
    stats = {**STATS, "peers": [peer("idle", 5, 5), peer("busy", 9, 9)]}
    events = [{"at": 1.0, "kind": "peer.set", "node": "\x1b]0;x\x07", "reason": ""}]
    view = top_view(HEALTH, stats, {"busy": (1e6, 0.0), "idle": (0.0, 0.0)}, events)
    console = Console(width=200, record=True)
    with console.capture() as captured:
        console.print(view)
    said = captured.get()
    assert said.index("node-busy") < said.index("node-idle")
    assert "976.6 KiB/s" in said
    assert "\x1b[2J" not in said
    assert "\x1b]0" not in said
    assert "peer.set" in said
    assert "reason" not in said


def test_events_are_read_from_the_stream_and_comments_are_not() -> None:
    stream = [
        b": hello\n",
        b"id: 1-1\n",
        b"event: peer.set\n",
        b'data: {"at": 1, "kind": "peer.set"}\n',
        b"\n",
    ]
    assert list(parse_events(stream)) == [{"at": 1, "kind": "peer.set"}]
    assert list(parse_events([b"data: {}\n"])) == [{}]
    with pytest.raises(ValueError, match="Expecting"):
        list(parse_events([b"data: nonsense\n"]))
