"""The messages that the pages for troubleshooting quote exist in the sources.

A part of a message between two ellipses that has at least three words is looked up. The name of the
component at the start, as in `chain: …`, is a field of its own in the log.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = {"troubleshooting.md": 15, "policy.md": 5}
"""More parts than this are looked up."""
VALUE = "\0"


def strings(path: Path) -> Iterator[str]:
    """Yield the strings of a source, with a mark for each value that is formatted into one."""
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Constant(str() as text):
                yield text
            case ast.JoinedStr(parts):
                yield "".join(str(x.value) if isinstance(x, ast.Constant) else VALUE for x in parts)
            case _:
                pass


def quoted(page: str) -> Iterator[str]:
    """Yield the parts of the quoted messages that can be looked up."""
    for row in re.findall(r"^\|(?: \d+ \|)? (`.+?) \|", page, re.MULTILINE):
        for message in re.findall(r"`([^`]+)`", row):
            bare = re.sub(r"^[a-z]+: (?=.)", "", message)
            for part in re.split(r"…|: |/dev/net/tun|\d+|wg0|'ip filter'", bare):
                yield part.strip(" :,=()'")


@pytest.fixture(scope="module")
def known() -> str:
    return "\n".join(text for path in sorted((ROOT / "src").rglob("*.py")) for text in strings(path))


def unknown(page: str, known: str) -> list[str]:
    return [part for part in quoted(page) if len(part.split()) >= 3 and part not in known]


@pytest.mark.parametrize("name", PAGES)
def test_every_quoted_message_is_one_of_ours(known: str, name: str) -> None:
    page = (ROOT / "docs" / name).read_text()
    parts = [part for part in quoted(page) if len(part.split()) >= 3]
    assert len(parts) > PAGES[name]
    assert unknown(page, known) == []


def test_a_message_that_was_reworded_is_found(known: str) -> None:
    page = "| `firewall: FORWARD_TO: packets are not forwarded` | a |\n| 78 | `no such message …` | b |\n"
    assert unknown(page, known) == ["packets are not forwarded", "no such message"]
