"""POLICY_FILE: what is read at the start, and what a change of the file does."""

import json
from pathlib import Path

import pytest
from tests.unit.daemon.conftest import Bench, bench, eventually
from tests.unit.daemon.under_policy import OPEN, db

from dstack_vpn.core.chain.contract import MAX_POLICY
from dstack_vpn.errors import ConfigError
from dstack_vpn.wiring.policy_file import PolicyFileWatch, read_policy_file

__all__ = ["bench", "db"]
NODE_1 = {"grants": [OPEN | {"src": ["node:node-1"]}]}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "policy.hujson"
    path.write_text(json.dumps({"grants": [OPEN]}))
    return path


def test_no_file_is_no_policy() -> None:
    assert read_policy_file(None) is None


def test_a_policy_is_read(file: Path) -> None:
    found = read_policy_file(file)
    assert found is not None
    assert len(found.grants) == 1


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'{\n  "grants": 1}', "line 2, column 13: expected a list"),
        (b"\xff", "is not UTF-8"),
        (b" " * (MAX_POLICY + 1), "more than 24,000 bytes"),
    ],
)
def test_a_bad_file_is_refused_with_its_place(file: Path, content: bytes, reason: str) -> None:
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=reason) as error:
        read_policy_file(file)
    assert str(file) in str(error.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        read_policy_file(tmp_path / "none")


async def test_a_change_is_followed_and_a_bad_one_changes_nothing(db: Bench, file: Path) -> None:
    async with db.running() as node:
        await eventually(lambda: db.tokens() == {1, 2, 3})
        watch = PolicyFileWatch(file, node.members)
        assert problem_with(watch, file, json.dumps(NODE_1)) is None
        await eventually(lambda: db.tokens() == {1})
        assert "line 1, column 2" in (problem_with(watch, file, "{") or "")
        assert "No such file" in (problem_with(watch, file, None) or "")
        assert db.tokens() == {1}
        assert problem_with(watch, file, json.dumps({"grants": [OPEN]})) is None
        await eventually(lambda: db.tokens() == {1, 2, 3})


def problem_with(watch: PolicyFileWatch, file: Path, content: str | None) -> str | None:
    """Change the file, or remove it; return the problem that the node finds."""
    if content is None:
        file.unlink()
    else:
        file.write_text(content)
    watch.check()
    return watch.problem
