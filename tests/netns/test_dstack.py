"""A node with a key from the guest agent: a real daemon and tunnel, and its attestation."""

import base64
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from demo.lab import Lab
from tests.guest_agent import Agent, serving
from tests.quotes import NOW, Made

from dstack_vpn.adapters.attest.verify import GENUINE, Judgement, verify
from dstack_vpn.adapters.keys.guest_agent import GuestAgent
from dstack_vpn.core.attest.measurements import Expected

pytestmark = [pytest.mark.netns, pytest.mark.anvil]


async def test_a_derived_key_carries_a_tunnel_and_is_on_no_disk(empty_lab: Lab, tmp_path: Path) -> None:
    agent = Agent()
    with serving(agent, tmp_path) as path:
        a, b = empty_lab.add_node("a"), empty_lab.add_node("b")
        a.key = await GuestAgent(path).wireguard_key()
        for node in (a, b):
            empty_lab.mint(node)
            empty_lab.set_endpoint(node)
        settings = {"WIREGUARD_PRIVATE_KEY": "dstack", "WIREGUARD_PRIVATE_KEY_FILE": ""}
        a.start(**settings, DSTACK_SIMULATOR_ENDPOINT=path)
        b.start()
        for node in (a, b):
            node.wait_ready()
        a.wait_reaches(b.address)

        said = a.get("/attestation")
        assert said["public_key"] == str(a.public_key)
        expected = Made(b"", agent.authority).expected | {"instance-id": [agent.instance_id]}
        intel = agent.authority.parsed()
        found = verify(
            bytes.fromhex(said["quote"]),
            said["event_log"],
            a.public_key,
            expected=Expected.parse(expected),
            by=Judgement(intel, NOW.timestamp(), root=agent.authority.anchor),
        )
        assert found.valid, found
        # The command trusts Intel's root certificate only, which did not sign this quote.
        (tmp_path / "intel.json").write_text(intel.to_json())
        (tmp_path / "expected.json").write_text(json.dumps(expected))
        files = ("--collateral", str(tmp_path / "intel.json"), "--expect", str(tmp_path / "expected.json"))
        verdict = _verify(json.dumps(said), "--public-key", str(a.public_key), *files, "--json")
        assert verdict.returncode == 1
        problems = {name: text for name, text in json.loads(verdict.stdout)["checks"].items() if text}
        assert list(problems) == [GENUINE]
        assert "no attestation" in b.fetch("127.0.0.1", 8080, "/attestation")
        assert a.stop() == 0
    secret = a.key.reveal()
    a.key_file.unlink()
    for file in (f for f in a.home.rglob("*") if f.is_file()):
        content = file.read_bytes()
        assert secret not in content
        assert secret.hex().encode() not in content
        assert base64.b64encode(secret) not in content, file


def _verify(document: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = (sys.executable, "-m", "dstack_vpn", "attest", "verify", *arguments)
    environment = {"PATH": os.environ["PATH"]}  # noqa: TID251  # for the child process
    return subprocess.run(
        command, input=document, env=environment, capture_output=True, text=True, check=False
    )
