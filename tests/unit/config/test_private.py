"""Directories of secrets that another user can write to are refused, with the remedy."""

import os
from pathlib import Path

import pytest

from dstack_vpn.config.load import load
from dstack_vpn.config.private import exposure, replaceable
from dstack_vpn.errors import ConfigError

KEY = "gI6EdUSYvn8ugXOt8QQD6Yc+JyiZxIhp3GInSWRfWGE="
ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="NOT ROOT: what belongs to another user is NOT tested")


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o770, 0o720, 0o702, 0o2775])
def test_a_directory_that_others_can_write_to_is_exposed(tmp_path: Path, mode: int) -> None:
    state = tmp_path / "state"
    state.mkdir()
    state.chmod(mode)
    problem = exposure(state)
    assert problem is not None
    assert f"mode {mode:04o}" in problem
    assert problem.endswith(f"chmod 0700 {state}")


@pytest.mark.parametrize("mode", [0o700, 0o755, 0o750, 0o2750])
def test_a_directory_that_others_can_at_most_read_is_not(tmp_path: Path, mode: int) -> None:
    state = tmp_path / "state"
    state.mkdir()
    state.chmod(mode)
    assert exposure(state) is None
    assert exposure(state / "missing" / "deeper") is None


@ROOT
def test_a_directory_of_another_user_is_exposed(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    os.chown(state, 12345, -1)
    assert exposure(state) == (f"{state} belongs to user 12345, who can replace keys: chown 0 {state}")


def test_a_directory_below_one_that_others_can_write_to_is_exposed_but_for_the_sticky_bit(
    tmp_path: Path,
) -> None:
    above, state = tmp_path / "above", tmp_path / "above" / "state"
    state.mkdir(parents=True, mode=0o700)
    link = tmp_path / "link"
    link.symlink_to(state)
    for mode, found in ((0o777, True), (0o1777, False), (0o755, False)):
        above.chmod(mode)
        for path in (state, link, state / "missing", above / "missing"):
            assert (exposure(path) is not None) is found
        assert (replaceable(state / "key") is not None) is found


def test_a_key_file_that_another_user_could_replace_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    folder.mkdir()
    key = folder / "wireguard.key"
    key.write_text(KEY)
    key.chmod(0o600)
    environment = {
        "NETWORK": "local",
        "RPC_URL": "http://127.0.0.1:9",
        "CONTRACT_ADDRESS": "0x" + "11" * 20,
        "WIREGUARD_PRIVATE_KEY_FILE": str(key),
    }
    load(environment=environment)
    folder.chmod(0o777)
    with pytest.raises(ConfigError, match=r"WIREGUARD_PRIVATE_KEY_FILE: other users can replace files in"):
        load(environment=environment)
    folder.chmod(0o1777)  # as Kubernetes mounts its secrets
    load(environment=environment)
