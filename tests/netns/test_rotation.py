"""Key rotation under traffic: by the command beside a daemon, and by the daemon itself."""

import os
import shlex
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from demo.lab import Lab, Tools
from demo.node import LabNode
from demo.ping import Ping
from eth_account import Account
from tests.netns_support import wait_until

from dstack_vpn.adapters import keyfile
from dstack_vpn.core.wireguard.keys import PrivateKey
from dstack_vpn.core.wireguard.x25519 import derive

pytestmark = [pytest.mark.netns, pytest.mark.anvil]

MNEMONIC = "test test test test test test test test test test test junk"
"""Anvil's mnemonic, which is public."""
EAGER = (str(Path(__file__).with_name("eager.py")),)
HANDSHAKE = 6.0
"""Seconds. WireGuard repeats a handshake after 5 s, if the other side read the key later."""
PACE = 200
"""Pings per second."""


def holder(owner: int) -> str:
    Account.enable_unaudited_hdwallet_features()
    return str(Account.from_mnemonic(MNEMONIC, account_path=f"m/44'/60'/0'/0/{owner}").key.to_0x_hex())


def rotate(node: LabNode, owner: int) -> "subprocess.CompletedProcess[str]":
    environment = node.environment() | {
        "PATH": os.environ["PATH"],  # noqa: TID251  # for the child process
        "WIREGUARD_PRIVATE_KEY": "generate",
        "WIREGUARD_PRIVATE_KEY_FILE": "",
        "CONTRACT_PRIVATE_KEY": holder(owner),
    }
    command = (sys.executable, "-m", "dstack_vpn", "node", "rotate-key", node.name)
    with node.namespace.popen(
        *command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        out, error = process.communicate(timeout=60)
    return subprocess.CompletedProcess(command, process.returncode, out, error)


def key_of(node: LabNode) -> PrivateKey:
    return PrivateKey.parse((node.home / "state" / "wireguard.key").read_text().strip())


def test_a_key_is_rotated_under_traffic_and_a_failed_one_is_not(empty_lab: Lab) -> None:
    a, b = empty_lab.add_node("a"), empty_lab.add_node("b")
    b.key = keyfile.make(b.home / "state" / "wireguard.key")
    for node in (a, b):
        empty_lab.mint(node)
        empty_lab.set_endpoint(node)
    a.start()
    b.start(WIREGUARD_PRIVATE_KEY="generate", WIREGUARD_PRIVATE_KEY_FILE="")
    for node in (a, b):
        node.wait_ready()
    a.wait_reaches(b.address)

    stranger = rotate(b, 7)
    assert stranger.returncode == 1, "only the holder can announce it"
    assert "The old key stays in use" in stranger.stderr
    assert key_of(b) == b.key
    assert a.reaches(b.address)

    old = b.public_key
    with_ping = Ping(a.namespace, b.address, b.home / "ping.log")
    try:
        first = with_ping.mark()
        done = rotate(b, b.owner)
        assert done.returncode == 0, done.stderr
        wait_until(lambda: key_of(b) != b.key, "b's daemon has the new key")
        b.key = key_of(b)
        wait_until(lambda: derive(b.key) in a.device().peers, "a has b's new key")
        assert old not in a.device().peers
        last = with_ping.mark()
        loss = with_ping.between(first, with_ping.mark(at_least=last + PACE))
    finally:
        with_ping.stop()

    assert loss.longest_gap < HANDSHAKE, f"longer than one handshake: {loss}"
    a.wait_reaches(b.address)
    b.wait_reaches(a.address)


# -- by the key's age ------------------------------------------------------------------------------

HOUR = 3600
START = 20.0
"""Seconds until a daemon has changed an old key. It begins within 3 s."""


def in_the_past(tools: Tools, folder: Path) -> Tools:
    """Return tools whose chain begins two hours ago."""
    script = folder / "anvil"
    began = int(time.time()) - 2 * HOUR  # noqa: TID251  # anvil's clock
    script.write_text(f'#!/bin/sh\nexec {shlex.quote(str(tools.anvil))} "$@" --timestamp {began}\n')
    script.chmod(0o755)
    return replace(tools, anvil=script)


def children(node: LabNode) -> set[bytes]:
    """Return the command lines of a daemon's child processes, which all users can read."""
    assert node.daemon is not None
    found = set()
    for task in Path("/proc", str(node.daemon.pid), "task").iterdir():
        try:
            for child in (task / "children").read_text().split():
                found.add(Path("/proc", child, "cmdline").read_bytes())
        except OSError:
            continue
    return found


def test_a_daemon_changes_its_key_by_its_age_under_traffic(tools: Tools, tmp_path: Path) -> None:
    with Lab(in_the_past(tools, tmp_path)) as lab:
        lab.start_chain()
        a, b = lab.add_node("a"), lab.add_node("b", program=EAGER)
        b.key = keyfile.make(file := b.home / "state" / "wireguard.key")
        written = file.stat().st_mtime - 0.97 * HOUR
        os.utime(file, (written, written))
        for node in (a, b):
            lab.mint(node)
            lab.set_endpoint(node)
        secret = holder(b.owner)
        account = tmp_path / "holder.key"
        account.touch(0o600)
        account.write_text(secret)
        a.start()
        b.start(
            WIREGUARD_PRIVATE_KEY="generate",
            WIREGUARD_PRIVATE_KEY_FILE="",
            CONTRACT_PRIVATE_KEY_FILE=str(account),
            KEY_MAX_AGE=str(HOUR * 1000),
        )
        for node in (a, b):
            node.wait_ready()
        a.wait_reaches(b.address)

        old, seen = b.public_key, set()
        ping = Ping(a.namespace, b.address, b.home / "ping.log")
        try:
            first = ping.mark()

            def changed() -> bool:
                seen.update(children(b))
                return key_of(b) != b.key

            wait_until(changed, f"b's daemon has changed its key (its log: {b.log})", START)
            b.key = key_of(b)
            wait_until(lambda: derive(b.key) in a.device().peers, "a has b's new key")
            last = ping.mark()
            loss = ping.between(first, ping.mark(at_least=last + PACE))
        finally:
            ping.stop()
        assert old not in a.device().peers
        assert loss.longest_gap < HANDSHAKE, f"longer than one handshake: {loss}"
        wait_until(lambda: b.component("key") == ("ok", ""), "the key's component is ok")
        stats = b.get("/stats")
        assert stats["reports"]["key"]["announced"] == 1
        assert stats["public_key"] == str(b.public_key)
        assert [line for line in seen if b"rotate-key" in line], "the process was seen"
        shown = b.log.read_bytes() + repr((stats, b.health(), seen)).encode()
        assert secret.removeprefix("0x").encode() not in shown.lower()
