"""The installation of this package by scripts/setup, as a wheel or from the tree."""

import os
import subprocess
from pathlib import Path
from typing import Final

import pytest

LIB: Final = Path(__file__).parents[2] / "scripts" / "lib.sh"
WHEEL: Final = "current wheel project src || install_own wheel tree ."
TREE: Final = "current tree project || install_own tree wheel -e ."


class Checkout:
    """A directory with sources, and a Python that only counts its calls."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "src").mkdir()
        (folder / "src" / "module").touch()
        (folder / "project").touch()
        self.date(folder, -60)
        python = folder / ".venv" / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text('#!/bin/sh\necho "$@" >>calls\n[ ! -e broken ]\n')
        python.chmod(0o755)

    def date(self, place: Path, seconds: float) -> None:
        """Set the modification times in a directory, relative to the newest stamp or to now."""
        stamps = list((self.folder / ".venv").glob(".installed-*"))
        base = max((stamp.stat().st_mtime for stamp in stamps), default=self.folder.stat().st_mtime)
        for path in (place, *place.rglob("*")):
            os.utime(path, (base + seconds, base + seconds))

    def installs(self, line: str) -> int:
        """Run the line of the script; return how often it has installed."""
        calls = self.folder / "calls"
        calls.unlink(missing_ok=True)
        subprocess.run(["bash", "-euc", f". {LIB}; {line}"], cwd=self.folder, check=False)
        return len(calls.read_text().splitlines()) if calls.exists() else 0


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


@pytest.mark.parametrize("line", [WHEEL, TREE])
def test_one_installation_is_enough(checkout: Checkout, line: str) -> None:
    assert [checkout.installs(line) for _ in range(3)] == [1, 0, 0]


@pytest.mark.parametrize("changed", ["src/module", "src", "project"])
def test_a_changed_source_is_installed(checkout: Checkout, changed: str) -> None:
    """A directory changes when one of its files is removed."""
    checkout.installs(WHEEL)
    checkout.date(checkout.folder / changed, 1)
    assert checkout.installs(WHEEL) == 1


@pytest.mark.parametrize("line", [WHEEL, TREE])
def test_a_new_link_to_an_old_source_is_no_change(checkout: Checkout, line: str) -> None:
    """The test of the README runs in a folder of links."""
    (checkout.folder / "project").rename(checkout.folder / "linked")
    checkout.installs(line)
    (checkout.folder / "project").symlink_to("linked")
    assert checkout.installs(line) == 0


def test_the_wheel_and_the_tree_replace_each_other(checkout: Checkout) -> None:
    assert [checkout.installs(line) for line in (TREE, WHEEL, TREE, TREE, WHEEL)] == [1, 1, 1, 0, 1]


def test_a_failed_installation_is_repeated(checkout: Checkout) -> None:
    (checkout.folder / "broken").touch()
    assert checkout.installs(WHEEL) == 1
    (checkout.folder / "broken").unlink()
    assert checkout.installs(WHEEL) == 1
