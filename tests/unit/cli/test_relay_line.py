from dstack_vpn.cli.relay_line import line


def stats(**more: object) -> dict[str, object]:
    known = {"mode": "udp2tcp", "bytes_up": 0, "bytes_down": 0, "drops": {"queue": 0}}
    return {**known, "connected": 1, "connections": 2, "upstream": None, "rtt_ms": None, **more}


def test_the_live_line_tells_rates_the_upstream_and_drops() -> None:
    now = stats(bytes_up=1_250_000, upstream="tls://a:443", rtt_ms=12.34, drops={"queue": 3, "limit": 1})
    text = line(stats(), now, 1.0).plain
    assert "↑ 10.0  ↓ 0.0 Mbit/s" in text
    assert "1/2 connected" in text
    assert "tls://a:443" in text
    assert "rtt 12.3 ms" in text
    assert "4 dropped" in text
