"""Log lines as JSON objects for all kinds of values, and levels by component."""

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


def test_the_same_warning_is_told_once_a_minute_and_then_how_often() -> None:
    now = 0.0
    fold = logs.Folding(lambda: now)

    def say(method: str, **event: object) -> dict[str, object] | None:
        try:
            return dict(fold(None, method, dict(event)))
        except structlog.DropEvent:
            return None

    assert say("warning", event="a", problem="x") == {"event": "a", "problem": "x"}
    assert say("warning", event="a", problem="x") is None
    assert say("warning", event="a", problem="y") is not None
    assert say("error", event="a", problem="x") is not None
    assert say("warning", problem="x", event="a") is None
    # Info lines are not folded.
    assert [say("info", event="b") for _ in range(3)] == [{"event": "b"}] * 3
    now = logs.FOLD
    assert say("warning", event="a", problem="x") == {"event": "a", "problem": "x", "repeated": 2}
    assert say("warning", event="a", problem="x") is None
    # The number of remembered lines is limited.
    for number in range(2 * logs.REMEMBERED):
        assert say("error", event="c", number=number) is not None
    assert len(fold._logged) == logs.REMEMBERED
