"""Hostile values for every flag and argument give a message and an exit code, not a traceback."""

import io
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from tests.unit.cli.conftest import Cli
from tests.unit.cli.test_secrets import COMMANDS

VALUES = ("", "x" * 100_000, "é\u202e\U0001f600", "\udcff", "-", "0", "../..")
STARTS = ("run", "dev", "relay", "doctor")
"""Commands that would keep running, or send packets, if a value is valid."""


def _options() -> Iterator[tuple[str, str]]:
    for path, command in COMMANDS.items():
        if path.split(" ", 1)[0] in ("", *STARTS) or isinstance(command, click.Group):
            continue
        for parameter in command.params:
            if isinstance(parameter, click.Option) and not parameter.is_flag:
                yield path, parameter.opts[0]
        if any(isinstance(parameter, click.Argument) for parameter in command.params):
            yield path, ""


@pytest.mark.parametrize(("path", "flag"), list(_options()))
def test_a_hostile_value_is_no_traceback(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, flag: str
) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO()))
    monkeypatch.chdir(tmp_path / "deep" / "er")
    for value in VALUES:
        given = (flag, value) if flag else ("--", value)
        ran = cli(*path.split(), *given, STATE_DIR=str(tmp_path), HEALTH_CHECK_PORT="9")
        assert ran.code in (0, 1, 2, 75, 78), (value[:20], ran)
        assert "Traceback" not in ran.err
