"""The audit log of a real daemon: one cause from an event to its plan, in a valid hash chain."""

import json
import os
import sqlite3
from typing import Any

import pytest
from demo.lab import Lab
from demo.node import LabNode
from tests.commands import forgotten_logging, run_here
from tests.netns_support import wait_until

pytestmark = [pytest.mark.netns, pytest.mark.anvil]


def command(node: LabNode, *arguments: str) -> tuple[int, str]:
    environment = {**node.environment(), "PATH": os.environ["PATH"]}  # noqa: TID251  # for the command
    with forgotten_logging():
        done = run_here(arguments, environment)
    return done.code, done.out + done.err


def shown(node: LabNode, *filters: str) -> list[dict[str, Any]]:
    code, said = command(node, "audit", "show", "--json", *filters)
    assert code == 0, said
    found: list[dict[str, Any]] = json.loads(said)
    return found


def backups(node: LabNode) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(command(node, "config", "list", "--json")[1])["backups"]
    return found


def logged(node: LabNode, event: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in node.log.read_text().splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == event]


def test_a_revocation_has_one_cause_from_the_chain_to_the_peer(lab: Lab) -> None:
    a, c = lab.nodes["a"], lab.nodes["c"]
    lab.lost(lab.revoke(c), c.public_key, (a,))
    # The daemon writes its first records a moment after its start.
    wait_until((a.home / "state" / "audit.sqlite").exists, "the audit log")
    wait_until(lambda: shown(a, "--node", "c", "--kind", "peer.removed"), "the record of the removal")
    (removed,) = shown(a, "--node", "c", "--kind", "peer.removed")
    cause = removed["body"]["cause"]
    decided = shown(a, "--node", "c", "--kind", "access.decided")[-1]["body"]
    assert (decided["granted"], decided["reason"], decided["cause"]) == (False, "revoked", cause)
    event = shown(a, "--node", "c", "--kind", "chain.event")[-1]["body"]
    assert (event["event"], f"{event['block']}-{event['log_index']}") == ("revoked", cause)
    # The same cause in the logs of this node and of the others.
    b = lab.nodes["b"]
    for node in (a, b):
        wait_until(lambda: logged(node, "peer.removed"), "the log")  # noqa: B023  # used in the same iteration
        assert logged(node, "peer.removed")[-1]["cause"] == cause
        assert cause in [line["cause"] for line in logged(node, "chain.event")]

    wait_until(lambda: backups(a), "a backup")
    backup = backups(a)[0]["name"]
    assert command(a, "config", "rollback", backup)[0] == 0
    assert shown(a, "--kind", "admin.rollback")[-1]["body"] == {"backup": backup}
    wait_until(lambda: shown(a, "--kind", "config.pin"), "the daemon's record")

    assert a.stop() == 0
    assert shown(a, "--kind", "node")[-1]["kind"] == "node.stopped"
    code, said = command(a, "audit", "verify", "--json")
    verdict = json.loads(said)
    assert (code, verdict["sound"]) == (0, True)
    exported = [json.loads(line) for line in command(a, "audit", "export")[1].splitlines()]
    assert f"{exported[-1]['number']}:{exported[-1]['hash']}" == verdict["end"]
    assert command(a, "audit", "verify", "--contains", verdict["end"])[0] == 0

    with sqlite3.connect(a.home / "state" / "audit.sqlite") as file:
        file.execute("DROP TRIGGER record_goes")
        file.execute("DELETE FROM record WHERE number = ?", (exported[-1]["number"],))
    assert command(a, "audit", "verify")[0] == 0
    code, said = command(a, "audit", "verify", "--contains", verdict["end"])
    assert code == 1
    assert "the log was truncated or rewritten" in said
