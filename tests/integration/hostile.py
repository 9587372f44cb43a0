"""Checks for the tests of hostile registries: the node reports the fault, and is unaffected."""

from typing import Any

from tests.integration.support import Peers, Rig


def lines_about(lines: list[Any], rig: Rig) -> list[Any]:
    """Return the warnings and errors so far."""
    rig.node.event_logger.flush()
    return [line for line in lines if line["log_level"] not in ("debug", "info")]


def check_line(line: Any, token: int, problem: str) -> None:
    """Check that a line names the token and the problem, without a quotation, on one line."""
    assert (line["event"], line["token"]) == ("token.refused", token)
    assert problem in line["problem"]
    assert len(str(line)) < 500
    assert str(line["problem"]).isprintable()


async def unharmed(rig: Rig, before: Peers) -> None:
    """Check for unchanged peers, the same session, and a healthy device with no pending changes."""
    await rig.quiet()
    await rig.settle(before, "the same peers as before")
    assert len(rig.sessions) == 1, "the endpoint is not to blame"
    assert rig.follows()
    assert rig.component("device") == "ok: "
