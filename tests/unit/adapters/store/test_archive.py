"""The wg-quick file and its backups."""

from pathlib import Path

import pytest

from dstack_vpn.adapters.store.archive import KEEP, FileArchive
from dstack_vpn.core.wireguard.config_file import HEADER
from dstack_vpn.errors import StoreError


@pytest.fixture
def archive(tmp_path: Path) -> FileArchive:
    return FileArchive(tmp_path / "etc" / "wg0.conf", tmp_path / "state")


async def test_what_is_written_is_private_and_kept(archive: FileArchive, tmp_path: Path) -> None:
    await archive.write("one")
    await archive.write("two")
    assert (tmp_path / "etc" / "wg0.conf").read_text() == "two"
    backups = archive.list()
    assert [archive.read(backup.name) for backup in backups] == ["two", "one"]
    for path in (tmp_path / "etc" / "wg0.conf", *(backup.path for backup in backups)):
        assert path.stat().st_mode & 0o777 == 0o600


async def test_the_same_text_is_not_written_again(archive: FileArchive, tmp_path: Path) -> None:
    await archive.write("one")
    inode = (tmp_path / "etc" / "wg0.conf").stat().st_ino
    await archive.write("one")
    await FileArchive(tmp_path / "etc" / "wg0.conf", tmp_path / "state").write("one")
    assert (tmp_path / "etc" / "wg0.conf").stat().st_ino == inode
    assert len(archive.list()) == 1


async def test_only_the_last_backups_stay(archive: FileArchive) -> None:
    for number in range(KEEP + 3):
        await archive.write(str(number))
    kept = [archive.read(backup.name) for backup in archive.list()]
    assert kept[0] == str(KEEP + 2)
    assert len(kept) <= KEEP
    assert "0" not in kept


async def test_a_pin_is_a_backup_until_it_is_resumed(archive: FileArchive) -> None:
    await archive.write("one")
    await archive.write("two")
    archive.pin(archive.list()[1].name)
    assert await archive.pinned() == "one"
    assert archive.is_pinned
    assert archive.resume()
    assert await archive.pinned() is None
    assert not archive.resume()


@pytest.mark.parametrize("name", ["", "nope", "../../etc/passwd", "20260101T000000.000Z"])
def test_a_backup_that_is_not_there(archive: FileArchive, name: str) -> None:
    with pytest.raises(StoreError, match="config list"):
        archive.read(name)


async def test_a_place_that_can_not_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError):
        await FileArchive(tmp_path / "file" / "wg0.conf", tmp_path / "state").write("one")


def test_a_file_that_was_never_written_is_said_to_be_so(archive: FileArchive) -> None:
    with pytest.raises(StoreError, match=r"wg0\.conf does not exist yet"):
        archive.read("current")


HOOKS = "[Interface]\nPostUp = reboot\n"


@pytest.mark.parametrize("text", [HOOKS, f"{HEADER}\n{HOOKS}", "[Interface]\nListenPort = 1\n", "\xff"])
async def test_a_file_of_others_is_left_as_it_is(archive: FileArchive, tmp_path: Path, text: str) -> None:
    path = tmp_path / "etc" / "wg0.conf"
    path.parent.mkdir()
    path.write_bytes(text.encode("latin-1"))
    path.chmod(0o640)
    assert archive.is_foreign()
    with pytest.raises(StoreError, match="was not written by dstack-vpn, and is not changed: move it away"):
        await archive.write("ours")
    assert path.read_bytes() == text.encode("latin-1")
    assert path.stat().st_mode & 0o777 == 0o640
    path.unlink()
    await archive.write("ours")
    assert not archive.is_foreign()


async def test_a_file_of_ours_is_known_by_its_backup_or_its_first_line(
    archive: FileArchive, tmp_path: Path
) -> None:
    path = tmp_path / "etc" / "wg0.conf"
    assert not archive.is_foreign()
    await archive.write("[Interface]\n")  # earlier releases wrote no header
    later = FileArchive(path, tmp_path / "state")
    assert not later.is_foreign()
    await later.write(f"{HEADER}\n[Interface]\n")
    assert not FileArchive(path, tmp_path / "lost").is_foreign()
    path.write_text("")
    assert not FileArchive(path, tmp_path / "lost").is_foreign(), "there is nothing to lose"


async def test_a_file_that_others_replace_while_we_run_is_theirs(
    archive: FileArchive, tmp_path: Path
) -> None:
    await archive.write("one")
    (tmp_path / "etc" / "wg0.conf").write_text(HOOKS)
    with pytest.raises(StoreError, match="is not changed"):
        await archive.write("two")
    assert (tmp_path / "etc" / "wg0.conf").read_text() == HOOKS
