"""A node's key is rotated by the command, beside its daemon, under traffic."""

import os
import subprocess
import sys

import pytest
from eth_account import Account
from tests.netns_support import wait_until

from dstack_vpn.adapters import keyfile
from dstack_vpn.cli.demo.lab import Lab
from dstack_vpn.cli.demo.node import Node
from dstack_vpn.cli.demo.ping import Ping
from dstack_vpn.core.keys import PrivateKey
from dstack_vpn.core.x25519 import derive

pytestmark = [pytest.mark.netns, pytest.mark.anvil]

MNEMONIC = "test test test test test test test test test test test junk"
"""Anvil's, and so everybody's."""
HANDSHAKE = 6.0
"""Seconds: WireGuard tries a handshake again after 5 s, where the other side has heard of the key later."""
PACE = 200
"""Pings a second."""


def holder(owner: int) -> str:
    Account.enable_unaudited_hdwallet_features()
    return str(Account.from_mnemonic(MNEMONIC, account_path=f"m/44'/60'/0'/0/{owner}").key.to_0x_hex())


def rotate(node: Node, owner: int) -> "subprocess.CompletedProcess[str]":
    environment = node.environment() | {
        "PATH": os.environ["PATH"],  # noqa: TID251  # the child's
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


def key_of(node: Node) -> PrivateKey:
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
        wait_until(lambda: derive(b.key) in a.device().peers, "a has it, too")
        assert old not in a.device().peers
        loss = with_ping.between(first, with_ping.mark(at_least=first + int(PACE * HANDSHAKE)))
    finally:
        with_ping.stop()

    assert loss.longest_gap < HANDSHAKE, f"longer than one handshake: {loss}"
    a.wait_reaches(b.address)
    b.wait_reaches(a.address)
