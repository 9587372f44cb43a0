"""The files of a key rotation, and recovery after a crash between two steps."""

import os
from pathlib import Path

import pytest

from dstack_vpn.adapters import keyfile
from dstack_vpn.adapters.keys.keyring import KEPT, PENDING, FileKeyRing, make_next, next_of, old_of
from dstack_vpn.core.wireguard.keys import PrivateKey, PublicKey
from dstack_vpn.core.wireguard.x25519 import derive
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
        with pytest.raises(DstackVpnError, match="has no WireGuard key: restore it, or remove it"):
            keyfile.make(next_of(path))


def test_garbage_in_one_file_keeps_no_other_key_from_being_used(tmp_path: Path) -> None:
    path = tmp_path / "wireguard.key"
    keyfile.make(path)
    old = keyfile.make(old_of(path))
    next_of(path).write_text("nonsense")
    FileKeyRing(path).use(derive(old))
    assert read(path) == old


def test_each_try_makes_another_key_and_all_of_them_wait(tmp_path: Path) -> None:
    path = tmp_path / "wireguard.key"
    old = keyfile.make(path)
    made = dict(make_next(path) for _ in range(3))
    assert len(made) == 3
    assert {file.stat().st_mode & 0o777 for file in made.values()} == {0o600}
    ring = FileKeyRing(path)
    assert ring.others().keys() == made.keys()
    for public in list(made)[::-1]:
        ring.use(public)
        assert derive(read(path)) == public, "whichever the registry names, and in any order"
    assert ring.others().keys() == {derive(old), *made} - {derive(read(path))}, "a reorg may undo all of it"
    ring.use(derive(old))
    assert read(path) == old
    assert ring.others().keys() == made.keys()


def test_what_waits_goes_when_it_can_not_be_mined_any_more(tmp_path: Path) -> None:
    path = tmp_path / "wireguard.key"
    keyfile.make(path)
    (pending, _), (dead, file) = make_next(path), make_next(path)
    current, _ = make_next(path)
    ring = FileKeyRing(path)
    ring.use(current)
    made = ring.made()
    assert made is not None
    os.utime(file, (made - PENDING - 1,) * 2)
    ring.settle()
    assert ring.others().keys() == {pending}
    assert dead not in ring.others()


def test_the_number_of_waiting_keys_is_bounded_but_for_those_of_a_week(tmp_path: Path) -> None:
    path = tmp_path / "wireguard.key"
    keyfile.make(path)
    for number in range(KEPT + 5):
        _, file = make_next(path)
        if number < 10:
            made = file.stat().st_mtime - PENDING - 60
            os.utime(file, (made, made))
    make_next(path)
    waiting = len(FileKeyRing(path).others())
    assert waiting == KEPT + 1
