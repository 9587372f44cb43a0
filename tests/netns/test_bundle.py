"""A support bundle beside a real daemon, with secrets planted in all its sources."""

import base64
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from demo.lab import Lab
from tests.netns_support import wait_until

pytestmark = [pytest.mark.netns, pytest.mark.anvil]
ACCOUNT = "0x" + "c0ffee" * 10 + "beef"
TOKEN = "planted-token-of-the-api-0123456789abcdef"
RPC_KEY = "planted-key-of-the-provider"


def test_no_planted_secret_is_in_it(lab: Lab, tmp_path: Path) -> None:
    a = lab.nodes["a"]
    wait_until(a.config.exists, "the wg-quick file is written")
    wait_until((a.home / "state" / "audit.sqlite").exists, "the audit log")
    key = base64.b64encode(a.key.reveal()).decode()
    assert key in a.config.read_text()
    log = tmp_path / "daemon.log"
    log.write_text(f"{a.log.read_text()}\nseen: {key} {a.key.reveal().hex()} {TOKEN} {ACCOUNT} /{RPC_KEY}/\n")
    path = tmp_path / "bundle.tar.gz"
    environment = {
        **a.environment(),
        "PATH": os.environ["PATH"],  # noqa: TID251  # for the child process
        "RPC_URL": f"{a.settings['RPC_URL']}/v3/{RPC_KEY}",
        "CONTRACT_PRIVATE_KEY": ACCOUNT,
        "API_TOKEN": TOKEN,
    }
    arguments = ("support-bundle", "--output", str(path), "--log", str(log))
    command = a.namespace.command(sys.executable, "-m", "dstack_vpn", *arguments)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=90)
    assert done.returncode == 0, done.stderr

    with tarfile.open(path) as archive:
        files = {m.name.partition("/")[2]: archive.extractfile(m) for m in archive.getmembers()}
        texts = {name: file.read().decode() for name, file in files.items() if file is not None}
    assert {
        "settings.json",
        "doctor.json",
        "daemon-health.json",
        "wg-quick.conf",
        "audit.jsonl",
    } <= texts.keys()
    assert "peer.set" in texts["audit.jsonl"]
    assert '"status": "ok"' in texts["daemon-health.json"]
    assert "wg0" in texts["addresses.txt"]
    assert str(lab.nodes["b"].public_key) in texts["wg-quick.conf"]
    whole = "\n".join(texts.values())
    planted = (key, a.key.reveal().hex(), ACCOUNT, ACCOUNT[2:], TOKEN, RPC_KEY)
    encoded = [base64.b64encode(secret.encode()).decode().rstrip("=") for secret in planted]
    assert [secret for secret in (*planted, *encoded) if secret in whole] == []
