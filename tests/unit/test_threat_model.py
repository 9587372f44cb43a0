"""The tests and files that the documents about trust name exist."""

import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@cache
def defined() -> frozenset[str]:
    """Return the names of all tests."""
    found: set[str] = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        found |= set(re.findall(r"^(?:async )?def (test_\w+)", path.read_text(), re.MULTILINE))
    return frozenset(found)


def named(document: str) -> list[str]:
    text = (ROOT / "docs" / document).read_text()
    return sorted(set(re.findall(r"`(test_\w+)`", text)))


@pytest.mark.parametrize("test", named("threat-model.md"))
def test_a_witness_of_the_threat_model_exists(test: str) -> None:
    assert test in defined()


@pytest.mark.parametrize("document", ["threat-model.md", "trust.md"])
def test_the_files_that_are_named_exist(document: str) -> None:
    text = (ROOT / "docs" / document).read_text()
    paths = set(re.findall(r"`(tests/[\w/]+\.py)`", text))
    assert paths
    assert {path for path in paths if not (ROOT / path).exists()} == set()
