"""Every dependency has an allowed licence."""

import re
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Final

import pytest

LOCK: Final = Path(__file__).parents[2] / "requirements.lock"
ALLOWED: Final = re.compile(
    r"(?:MIT|MIT-0|MIT License|BSD.*|Apache[ -](?:2\.0|Software License)|ISC.*|MPL-2\.0|Mozilla Public.*"
    r"|PSF-2\.0|Python Software Foundation License|CNRI-Python|Public Domain)"
)
ELSEWHERE: Final = frozenset({"win-inet-pton"})
"""Packages that are locked for other systems than that of the tests."""


def names() -> list[str]:
    return sorted(set(re.findall(r"^([a-z0-9._-]+)==", LOCK.read_text(), re.MULTILINE)) - ELSEWHERE)


def licences(name: str) -> list[list[str]]:
    """Return alternatives: each a list of licences that all apply (SPDX, or older metadata)."""
    found = metadata(name).json
    if expression := found.get("license_expression"):
        return [alternative.split(" AND ") for alternative in str(expression).split(" OR ")]
    classified = [c.split("::")[-1].strip() for c in found.get("classifier", []) if c.startswith("License")]
    return [classified or re.split(r",\s*", str(found.get("license", "none")))]


@pytest.mark.parametrize("name", names())
def test_a_dependencys_licence_is_allowed(name: str) -> None:
    try:
        alternatives = licences(name)
    except PackageNotFoundError:
        pytest.fail(
            f"{name} is locked and not installed: is it for another system? Then name it in ELSEWHERE"
        )
    allowed = [all(map(ALLOWED.fullmatch, licences)) for licences in alternatives]
    assert any(allowed), f"{name}: {alternatives}"
