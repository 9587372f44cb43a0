"""`keygen` and `pubkey`."""

import base64
import io

import pytest
from tests.unit.cli.conftest import Cli

from dstack_vpn.core.wireguard.keys import PrivateKey
from dstack_vpn.core.wireguard.x25519 import derive


def test_keys_are_made_and_derived(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    private = cli("keygen").out
    assert len(base64.b64decode(private.strip(), validate=True)) == 32
    assert private != cli("keygen").out
    monkeypatch.setattr("sys.stdin", io.StringIO(private))
    assert cli("pubkey").out == f"{derive(PrivateKey.parse(private.strip()))}\n"


@pytest.mark.parametrize("text", ["", "x", "A" * 43, "A" * 44, "A" * 10_000, "\n\n", "kéy"])
def test_pubkey_refuses_what_is_no_key(cli: Cli, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    ran = cli("pubkey")
    assert (ran.code, ran.out) == (1, "")
    assert (
        ran.err
        == "error: standard input: not a WireGuard key: expected 44 characters of base64 for 32 bytes\n"
    )
