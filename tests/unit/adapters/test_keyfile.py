"""The generated key file: it is permanent, and only its owner can read it."""

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dstack_vpn.adapters import keyfile
from dstack_vpn.core.wireguard.keys import PrivateKey
from dstack_vpn.core.wireguard.x25519 import clamp
from dstack_vpn.errors import DstackVpnError


def test_the_file_is_its_owners_alone_and_holds_a_valid_key(tmp_path: Path) -> None:
    path = tmp_path / "state" / "wireguard.key"
    key = keyfile.make(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert PrivateKey.parse(path.read_text().strip()) == key
    assert clamp(key.reveal()) == key
    assert list(path.parent.iterdir()) == [path]


def test_whoever_is_second_takes_the_key_of_the_first(tmp_path: Path) -> None:
    path = tmp_path / "wireguard.key"
    with ThreadPoolExecutor(8) as pool:
        keys = list(pool.map(keyfile.make, [path] * 32))
    assert len(set(keys)) == 1


def test_two_nodes_do_not_get_the_same_key(tmp_path: Path) -> None:
    assert keyfile.make(tmp_path / "a") != keyfile.make(tmp_path / "b")


def test_a_state_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "state").touch()
    with pytest.raises(DstackVpnError, match="STATE_DIR: can't write a key to"):
        keyfile.make(tmp_path / "state" / "wireguard.key")
