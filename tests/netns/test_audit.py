"""The audit log of a real daemon: one cause from the chain's event to the applied plan, in a sound chain."""

import json
import os
import sqlite3
import subprocess
import sys
from typing import Any

import pytest
from demo.lab import Lab
from demo.node import LabNode
from tests.netns_support import wait_until

pytestmark = [pytest.mark.netns, pytest.mark.anvil]


def command(node: LabNode, *arguments: str) -> tuple[int, str]:
    environment = {**node.environment(), "PATH": os.environ["PATH"]}  # noqa: TID251  # the child's
    line = (sys.executable, "-m", "dstack_vpn", *arguments)
    done = subprocess.run(line, env=environment, capture_output=True, text=True, check=False, timeout=30)
    return done.returncode, done.stdout + done.stderr


def shown(node: LabNode, *filters: str) -> list[dict[str, Any]]:
    code, said = command(node, "audit", "show", "--json", *filters)
    assert code == 0, said
    found: list[dict[str, Any]] = json.loads(said)
    return found


def logged(node: LabNode, event: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in node.log.read_text().splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == event]


def test_a_revocation_has_one_cause_from_the_chain_to_the_peer(lab: Lab) -> None:
    a, c = lab.nodes["a"], lab.nodes["c"]
    lab.lost(lab.revoke(c), c.public_key, (a,))
    wait_until(lambda: shown(a, "--node", "c", "--kind", "peer.removed"), "it is recorded")
    (removed,) = shown(a, "--node", "c", "--kind", "peer.removed")
    cause = removed["body"]["cause"]
    decided = shown(a, "--node", "c", "--kind", "access.decided")[-1]["body"]
    assert (decided["granted"], decided["reason"], decided["cause"]) == (False, "revoked", cause)
    event = shown(a, "--node", "c", "--kind", "chain.event")[-1]["body"]
    assert (event["event"], f"{event['block']}-{event['log_index']}") == ("revoked", cause)
    # The same cause in the log, on this node and on the others.
    b = lab.nodes["b"]
    for node in (a, b):
        wait_until(lambda: logged(node, "peer.removed"), "it is logged")  # noqa: B023  # waited for in the same turn
        assert logged(node, "peer.removed")[-1]["cause"] == cause
        assert cause in [line["cause"] for line in logged(node, "chain.event")]

    backup = json.loads(command(a, "config", "list", "--json")[1])["backups"][0]["name"]
    assert command(a, "config", "rollback", backup)[0] == 0
    assert shown(a, "--kind", "admin.rollback")[-1]["body"] == {"backup": backup}
    wait_until(lambda: shown(a, "--kind", "config.pin"), "the daemon has followed")

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
