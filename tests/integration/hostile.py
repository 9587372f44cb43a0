"""What the tests of hostile registries have in common: how a node shows that nothing happened to it."""

from typing import Any

from tests.integration.support import Peers, Rig


def lines_about(lines: list[Any], rig: Rig) -> list[Any]:
    """The warnings and errors so far."""
    rig.node.event_logger.flush()
    return [line for line in lines if line["log_level"] not in ("debug", "info")]


def check_line(line: Any, token: int, problem: str) -> None:
    """It says where and what, in our own words, on one line."""
    assert (line["event"], line["token"]) == ("token.refused", token)
    assert problem in line["problem"]
    assert len(str(line)) < 500
    assert str(line["problem"]).isprintable()


async def unharmed(rig: Rig, before: Peers) -> None:
    """Same peers, same session, same device, nothing left to do, and nothing hostile on the disk."""
    await rig.quiet()
    await rig.settle(before, "the same peers as before")
    assert len(rig.sessions) == 1, "the endpoint is not to blame"
    assert rig.follows()
    assert rig.component("device") == "ok: "
