"""Logs: one JSON object a line, whatever the values are; levels by component."""

import json

import pytest
import structlog

from dstack_vpn.adapters import logs


@pytest.fixture(autouse=True)
def restored() -> object:
    yield
    structlog.reset_defaults()


def test_hostile_values_stay_on_their_line(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", {}, "json")
    structlog.get_logger().info("node.field_refused", value='\n{"level":"error"}\x1b[2J\u2028')
    (line,) = capsys.readouterr().out.splitlines()
    entry = json.loads(line)
    assert entry["event"] == "node.field_refused"
    assert "\x1b" not in line


def test_levels_are_by_component(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("warning", {"chain": "debug", "device": "error"}, "json")
    log = structlog.get_logger()
    log.debug("chain.head")
    log.info("store.written")
    log.warning("peer.odd")
    log.error("peer.refused")
    log.warning("rpc.endpoint_left")
    events = [json.loads(line)["event"] for line in capsys.readouterr().out.splitlines()]
    assert events == ["chain.head", "peer.refused", "rpc.endpoint_left"]
