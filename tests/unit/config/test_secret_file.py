from pathlib import Path

import pytest

from dstack_vpn.config.secret_file import LIMIT, read_secret


def read(path: Path) -> tuple[str | None, list[str]]:
    problems: list[str] = []
    return read_secret("--password-file", path, problems, example="/etc/password"), problems


def test_a_secret_is_text_without_blanks_at_its_ends(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.touch(0o600)
    path.write_bytes("\ufeff p\u00e4ss word \r\n".encode())
    assert read(path) == ("p\u00e4ss word", [])


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620, 0o601])
def test_a_file_of_others_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "secret"
    path.write_text("hush")
    path.chmod(mode)
    text, problems = read(path)
    assert text is None
    assert problems == [f"--password-file: {path} can be read by others (mode {mode:04o}): chmod 0600 {path}"]


def test_a_file_in_a_directory_of_others_is_refused(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    path = tmp_path / "open" / "secret"
    path.touch(0o600)
    path.write_text("hush")
    path.parent.chmod(0o777)
    text, problems = read(path)
    assert text is None
    assert "other users can replace files" in problems[0]


@pytest.mark.parametrize("content", [b"", b" \n", b"x" * (LIMIT + 1), b"\xff\xfeh\x00"])
def test_an_unusable_content_is_not_quoted(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "secret"
    path.touch(0o600)
    path.write_bytes(content)
    text, problems = read(path)
    assert text is None
    assert len(problems) == 1
    assert "xx" not in problems[0]


@pytest.mark.parametrize("name", ["missing", "null\0byte"])
def test_a_missing_file_has_an_example(tmp_path: Path, name: str) -> None:
    text, problems = read(tmp_path / name)
    assert text is None
    assert problems[0].endswith("Example: --password-file=/etc/password")
