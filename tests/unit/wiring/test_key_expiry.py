"""The wiring of key rotation by age, and the names of its missing parts."""

from pathlib import Path

import pytest

from dstack_vpn.adapters.keys.changer import CommandKeyChanger
from dstack_vpn.config import load
from dstack_vpn.errors import AdminError
from dstack_vpn.wiring import key_expiry as wiring

ACCOUNT = "0x" + "5f" * 32
OURS = {"NETWORK": "local", "WIREGUARD_PRIVATE_KEY": "generate", "KEY_MAX_AGE": "3600000"}


def changer(folder: Path, **environment: str) -> CommandKeyChanger | None:
    return wiring.changer_of(load({}, {**OURS, "STATE_DIR": str(folder), **environment}))


def test_without_a_longest_age_there_is_none(tmp_path: Path) -> None:
    assert changer(tmp_path, KEY_MAX_AGE="0") is None


def test_with_an_account_nothing_is_in_the_way(tmp_path: Path) -> None:
    made = changer(tmp_path, CONTRACT_PRIVATE_KEY=ACCOUNT)
    assert made is not None
    assert made.hindrance is None


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = changer(tmp_path)
    assert made is not None
    assert made.hindrance is not None
    assert "CONTRACT_PRIVATE_KEY_FILE" in made.hindrance
    monkeypatch.setattr(wiring, "find_spec", lambda name: None)
    made = changer(tmp_path, CONTRACT_PRIVATE_KEY=ACCOUNT)
    assert made is not None
    assert made.hindrance is not None
    assert "pip install 'dstack-vpn[admin]'" in made.hindrance


async def test_what_the_process_says_is_rid_of_our_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "https://user:pass-word-1@rpc.example/v3/path-key-2?token=query-key-3"
    said = f"error: {ACCOUNT} and {url} are no good"
    made = changer(tmp_path, CONTRACT_PRIVATE_KEY=ACCOUNT, RPC_URL=url)
    assert made is not None
    monkeypatch.setattr(made, "_command", ("sh", "-c", 'echo "$0" >&2; exit 1', said))
    with pytest.raises(AdminError) as caught:
        await made.change(1)
    for secret in (ACCOUNT[2:], "pass-word-1", "path-key-2", "query-key-3"):
        assert secret not in str(caught.value)
    assert str(caught.value).endswith(" are no good")
