"""Private files are written completely or not at all, and leave no draft."""

import os
import stat
from pathlib import Path

import pytest

from dstack_vpn.adapters import keyfile
from dstack_vpn.adapters.relay import certs
from dstack_vpn.adapters.store import instance, private
from dstack_vpn.adapters.store.endpoints import EndpointFile
from dstack_vpn.adapters.store.private import create_private, write_private
from dstack_vpn.errors import DstackVpnError, RelayError, StoreError


def full(*_: object) -> None:
    raise OSError(28, "No space left on device")


def test_a_file_is_replaced_whole_and_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "secret"
    write_private(path, "one")
    write_private(path, b"two")
    assert path.read_bytes() == b"two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not create_private(path, "three")
    assert create_private(path.with_name("other"), "four")
    assert sorted(p.name for p in path.parent.iterdir()) == ["other", "secret"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_no_draft(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "secret"
    write_private(path, "one")
    if step == "fsync":
        monkeypatch.setattr(os, "fsync", full)
    else:
        monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_private(path, "two")
    assert [p.name for p in tmp_path.iterdir()] == ["secret"]
    assert path.read_text() == "one"


async def test_a_full_disk_leaves_no_draft_of_any_private_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DstackVpnError, match="can't write a key"):
        keyfile.make(tmp_path / "wireguard.key")
    with pytest.raises(RelayError, match="can't write"):
        certs._write(tmp_path / "relay.pem", "secret")
    with pytest.raises(StoreError):
        await EndpointFile(tmp_path / "endpoints.json").save({})
    assert instance.read_or_make(tmp_path) == ""
    assert not any(tmp_path.iterdir())  # noqa: ASYNC240  # a test may block


def test_the_draft_of_a_killed_process_goes_with_a_later_write(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    old, new, other = (tmp_path / name for name in (".secret.a.part", ".secret.b.part", ".other.a.part"))
    for draft in (old, new, other):
        draft.write_text("key")
    for draft in (old, other):
        os.utime(draft, (0, new.stat().st_mtime - private.STALE - 1))
    write_private(path, "text")
    assert sorted(p.name for p in tmp_path.iterdir()) == [".other.a.part", ".secret.b.part", "secret"]
