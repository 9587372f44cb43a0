"""The settings file of a machine that has joined."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from dstack_vpn.config import load
from dstack_vpn.config.joined import document, environment, unwritable

ACCOUNT = "0x" + "5f" * 32
CONTRACT = "0x" + "c" * 40


@pytest.fixture
def given(tmp_path: Path) -> dict[str, str]:
    """Return the environment of a machine that joins."""
    account = tmp_path / "account.key"
    account.write_text(ACCOUNT)
    account.chmod(0o600)
    return {
        "NETWORK": "local",
        "RPC_URL": 'wss://one.example/key?a="b"\\c,http://two.example:8545',
        "STATE_DIR": str(tmp_path / "state"),
        "CONTRACT_ADDRESS": CONTRACT,
        "CONTRACT_PRIVATE_KEY_FILE": str(account),
        "WIREGUARD_PRIVATE_KEY": "generate",
        "VPN_CIDR": "10.80.0.0/16",
    }


def test_run_loads_the_settings_of_the_command(tmp_path: Path, given: dict[str, str]) -> None:
    ours, file = load({}, given), tmp_path / "config.toml"
    text = document(ours, "web-1")
    file.write_text(text)
    theirs = load({}, {}, file, need=frozenset({"WIREGUARD_PRIVATE_KEY"}))
    assert theirs.node_id == "web-1"
    for name in ("network", "rpc_url", "chain_id", "contract_address", "state_dir", "key_file", "vpn_cidr"):
        assert getattr(theirs, name) == getattr(ours, name), name
    assert theirs.contract_private_key is None
    assert ACCOUNT[2:] not in text and "account.key" not in text


def test_the_account_stays_if_the_daemon_rotates_the_key(given: dict[str, str], tmp_path: Path) -> None:
    settings = load({}, given | {"KEY_MAX_AGE": "90d"})
    assert f'contract_private_key_file = "{tmp_path / "account.key"}"' in document(settings, "web-1")


def test_the_daemon_gets_no_account_that_it_does_not_need(
    given: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONTRACT_PRIVATE_KEY", ACCOUNT)
    monkeypatch.setenv("LANG", "C.UTF-8")
    settings = load({}, given)
    assert environment(settings)["LANG"] == "C.UTF-8"
    assert "CONTRACT_PRIVATE_KEY" not in environment(settings)
    assert environment(replace(settings, key_max_age=3600.0))["CONTRACT_PRIVATE_KEY"] == ACCOUNT


def test_a_file_that_can_be_created(tmp_path: Path) -> None:
    assert unwritable(tmp_path / "config.toml") is None
    assert unwritable(tmp_path / "new" / "folder" / "config.toml") is None
    assert list(tmp_path.iterdir()) == []


def test_files_that_can_not_be_created(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "missing")
    for path, problem in (
        (tmp_path / "file", "exists, and is not overwritten"),
        (tmp_path / "link", "exists, and is not overwritten"),
        (tmp_path / "file" / "config.toml", "is not a directory"),
        (Path("/proc/config.toml"), "can't write to /proc"),
    ):
        if path.parent == Path("/proc") and os.geteuid() == 0:
            continue  # root may write by the mode, which procfs refuses later
        found = unwritable(path)
        assert found is not None and problem in found
