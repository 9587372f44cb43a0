"""A daemon and a relay refuse directories of secrets that another user can write to."""

from pathlib import Path

import pytest
from tests.unit.cli.conftest import Cli, cli

from dstack_vpn.config.load import load
from dstack_vpn.core.observe.check import CheckStatus
from dstack_vpn.wiring.secrets import directories

__all__ = ["cli"]
KEY = "gI6EdUSYvn8ugXOt8QQD6Yc+JyiZxIhp3GInSWRfWGE="


@pytest.mark.parametrize("setting", ["STATE_DIR", "WIREGUARD_CONFIG"])
def test_the_daemon_refuses_to_start_with_exit_code_78(cli: Cli, tmp_path: Path, setting: str) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o777)
    key = tmp_path / "wireguard.key"
    key.write_text(KEY)
    key.chmod(0o600)
    values = {
        "STATE_DIR": str(tmp_path / "state"),
        "WIREGUARD_CONFIG": str(tmp_path / "state" / "wg.conf"),
        "CONTRACT_ADDRESS": "0x" + "11" * 20,
        "WIREGUARD_PRIVATE_KEY_FILE": str(key),
    }
    values[setting] = str(folder if setting == "STATE_DIR" else folder / "wg.conf")
    ran = cli("run", **values)
    assert ran.code == 78
    assert f"{setting}: other users can write to {folder} (mode 0777)" in ran.err
    assert f"chmod 0700 {folder}" in ran.err
    assert not list(folder.iterdir())


def test_a_relay_that_keeps_a_certificate_refuses_to_start(cli: Cli, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    given = ("relay", "tcp2udp", "--listen", "tls://127.0.0.1:0", "--to", "127.0.0.1:9")
    ran = cli(*given, STATE_DIR=str(tmp_path))
    assert ran.code == 78
    assert "STATE_DIR: other users can write to" in ran.err


def test_doctor_says_the_same(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    settings = load(
        {"state_dir": str(tmp_path)},
        environment={
            "NETWORK": "local",
            "RPC_URL": "http://127.0.0.1:9",
            "CONTRACT_ADDRESS": "0x" + "11" * 20,
            "WIREGUARD_CONFIG": str(tmp_path / "wg.conf"),
        },
    )
    check = directories(settings)
    assert check.status is CheckStatus.FAIL
    assert f"chmod 0700 {tmp_path}" in check.advice
    tmp_path.chmod(0o700)
    assert directories(settings).status is CheckStatus.PASS
