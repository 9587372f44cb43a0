"""The files of a key that is changed, and what a crash between two steps leaves."""

from pathlib import Path

import pytest

from dstack_vpn.adapters import keyfile
from dstack_vpn.adapters.keys.keyring import FileKeyRing, next_of, old_of
from dstack_vpn.core.keys import PrivateKey, PublicKey
from dstack_vpn.core.x25519 import derive
from dstack_vpn.errors import DstackVpnError, StoreError


def read(path: Path) -> PrivateKey:
    return PrivateKey.parse(path.read_text().strip())


def test_the_next_key_is_used_and_the_old_one_kept_until_it_can_go(tmp_path: Path) -> None:
    path = tmp_path / "wireguard.key"
    old, new = keyfile.make(path), keyfile.make(next_of(path))
    ring = FileKeyRing(path)
    assert ring.others() == {derive(new): new}
    ring.use(derive(new))
    assert (read(path), read(old_of(path))) == (new, old)
    assert path.stat().st_mode & 0o777 == old_of(path).stat().st_mode & 0o777 == 0o600
    assert ring.others() == {derive(old): old}
    ring.use(derive(old))
    assert (read(path), read(next_of(path))) == (old, new), "and back"
    ring.use(derive(new))
    ring.settle()
    assert ring.others() == {}
    assert read(path) == new


def test_a_crash_in_between_leaves_the_key_in_its_file_and_the_step_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "wireguard.key"
    old, new = keyfile.make(path), keyfile.make(next_of(path))

    def crash(*_: object) -> None:
        raise OSError(5, "power is gone")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", crash)
        with pytest.raises(StoreError, match="power is gone"):
            FileKeyRing(path).use(derive(new))
    assert (read(path), read(next_of(path))) == (old, new)
    FileKeyRing(path).use(derive(new))
    assert (read(path), read(old_of(path))) == (new, old)


def test_a_file_that_is_no_key_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "wireguard.key"
    keyfile.make(path)
    for garbage in (b"nonsense", b"\xff\xfe\x00", b""):
        next_of(path).write_bytes(garbage)
        ring = FileKeyRing(path)
        assert ring.others() == {}
        ring.use(PublicKey(b"\1" * 32))
        with pytest.raises(DstackVpnError, match="holds no WireGuard key: restore it, or remove it"):
            keyfile.make(next_of(path))


def test_garbage_in_one_file_keeps_no_other_key_from_being_used(tmp_path: Path) -> None:
    path = tmp_path / "wireguard.key"
    keyfile.make(path)
    old = keyfile.make(old_of(path))
    next_of(path).write_text("nonsense")
    FileKeyRing(path).use(derive(old))
    assert read(path) == old
