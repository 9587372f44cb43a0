"""`doctor` beside real daemons: all checks pass, or each fault has its own check."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest
from demo.lab import Lab
from demo.node import LabNode
from tests.commands import forgotten_logging, run_here
from tests.netns_support import wait_until

pytestmark = [pytest.mark.netns, pytest.mark.anvil]


def doctor(node: LabNode, **more: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """Return the exit code, and the checks by name."""
    command = node.namespace.command(sys.executable, "-m", "dstack_vpn", "doctor", "--json")
    environment = {**node.environment(), "PATH": os.environ["PATH"], **more}  # noqa: TID251  # for the child process
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout, done.stderr
    return done.returncode, {check["name"]: check for check in json.loads(done.stdout)["checks"]}


def test_beside_a_running_daemon_all_is_well(lab: Lab) -> None:
    a, b = lab.nodes["a"], lab.nodes["b"]
    wait_until(
        lambda: a.namespace.run("dig", "+short", f"@{a.address}", "a.vpn.internal", check=False), "DNS reply"
    )
    code, checks = doctor(a)
    assert {name: c["found"] for name, c in checks.items() if c["status"] != "pass"} == {}
    assert code == 0
    assert checks["udp port"]["found"] == "51820 is in use by wg0"
    assert checks["interface"]["found"] == "wg0 has 2 peers"
    assert checks["membership"]["found"] == f"node a, token {a.token}, with this node's key"
    assert checks["names"]["found"] == f"{a.address}:53 answers for a.vpn.internal"
    assert f"{b.endpoint}: a handshake " in checks["udp to b"]["found"]
    rpc = next(check for name, check in checks.items() if name.startswith("rpc "))
    assert "chain 31337, block " in rpc["found"]
    assert "access-registry" in rpc["found"]
    assert checks["rpc cost"]["found"].startswith("not known yet: an estimate needs 10 minutes")


def test_each_thing_that_is_broken_is_named_with_what_to_do(lab: Lab) -> None:
    a, b, c = lab.nodes["a"], lab.nodes["b"], lab.nodes["c"]
    b.stop()
    a.namespace.run("ip", "route", "replace", f"{c.underlay}/32", "dev", "eth0", "mtu", "1400")
    code, checks = doctor(a, RPC_URL=f"{a.settings['RPC_URL']},http://{b.underlay}:1")
    assert code == 1
    assert checks["udp to b"]["status"] == "fail"
    assert "no program listens there" in checks["udp to b"]["found"]
    assert checks["udp to c"]["status"] == "warn"
    assert checks["udp to c"]["advice"] == "set MTU=1340"
    dead = checks[f"rpc http://{b.underlay}:1"]
    assert dead["status"] == "fail"
    assert dead["advice"]

    # On b, whose daemon has stopped: the port is free, and the key is another node's.
    code, checks = doctor(b, WIREGUARD_PRIVATE_KEY_FILE=str(c.key_file))
    assert code == 1
    assert checks["udp port"]["found"] == "51820 is free"
    assert checks["rpc cost"]["found"] == "not known: no daemon runs here"
    assert checks["membership"]["status"] == "fail"
    assert "NODE_ID is b, but our key is registered for node c" in checks["membership"]["found"]


def bare(node: LabNode, *arguments: str) -> str:
    """Return the output of a command in a shell without the daemon's environment."""
    environment = {"PATH": os.environ["PATH"]}  # noqa: TID251  # for the command
    with node.namespace.entered(), forgotten_logging():
        done = run_here(arguments, environment)
    assert done.code == 0, done.out + done.err
    return done.out


def test_commands_about_the_daemon_take_its_settings(lab: Lab) -> None:
    a = lab.nodes["a"]
    wait_until(
        lambda: a.namespace.run("dig", "+short", f"@{a.address}", "a.vpn.internal", check=False), "DNS reply"
    )
    wait_until((a.home / "state" / "audit.sqlite").exists, "the audit log")
    settings = a.home / "state" / "settings.json"
    assert settings.stat().st_mode & 0o777 == 0o600
    assert str(a.key_file) in settings.read_text()
    found = {check["name"]: check for check in json.loads(bare(a, "doctor", "--json"))["checks"]}
    assert {name: c["found"] for name, c in found.items() if c["status"] != "pass"} == {}
    assert found["membership"]["found"] == f"node a, token {a.token}, with this node's key"
    assert json.loads(bare(a, "plan", "--json"))["changes"] == []
    assert json.loads(bare(a, "audit", "show", "--json", "--kind", "node.started"))
    wait_until(lambda: json.loads(bare(a, "config", "list", "--json"))["backups"], "a backup")
    a.stop()
    assert not settings.exists(), "without a daemon a command has the shell's settings"
