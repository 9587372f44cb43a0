"""The lock files agree: the images install the versions that the tests ran on."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def pins(name: str) -> dict[str, str]:
    text = (ROOT / name).read_text()
    return dict(re.findall(r"^([a-z0-9-]+)==([^ ;]+)", text, re.MULTILINE))


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-run.lock", "requirements-build.lock"])
def test_every_pin_has_a_hash(name: str) -> None:
    entries = re.split(r"\n(?=[a-z])", (ROOT / name).read_text())
    assert entries and all("--hash=sha256:" in entry for entry in entries)


def test_the_images_have_what_the_daemon_needs_and_nothing_that_signs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {re.match(r"[a-z0-9-]+", text)[0] for text in project["dependencies"]}  # type: ignore[index]  # each begins with its name
    run, everything = pins("requirements-run.lock"), pins("requirements.lock")
    assert wanted <= run.keys()
    assert run.items() <= everything.items()
    assert "eth-account" in everything and "eth-account" not in run
