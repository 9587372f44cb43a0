"""Exit codes and errors of every command: 0 success, 1 failure, 2 usage, 78 configuration."""

import click
import pytest
from tests.unit.cli.conftest import Cli

from dstack_vpn.cli import _COMMANDS, main
from dstack_vpn.errors import AdminError, DeviceError

COMMANDS = sorted(_COMMANDS)


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_is_there_for_every_command(cli: Cli, name: str) -> None:
    ran = cli(*name.split(), "--help")
    assert ran.code == 0
    assert ran.out.startswith("Usage: dstack-vpn")


@pytest.mark.parametrize("group", ["node", "contract", "invite", "tag"])
def test_help_has_examples(cli: Cli, group: str) -> None:
    waiting, seen = [group], 0
    while waiting:
        path = waiting.pop()
        shown = cli(*path.split(), "--help").out
        listed = shown.partition("Commands:")[2].strip().partition("\n\n")[0].splitlines()
        waiting += [f"{path} {line.split()[0]}" for line in listed]
        if not listed:
            seen += 1
            assert f"dstack-vpn {path}" in shown.partition("Example")[2], path
    assert seen > 1


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["run", "--nonsense"], ["completion", "tcsh"], ["pubkey", "x"]]
)
def test_usage_is_2(cli: Cli, arguments: list[str]) -> None:
    ran = cli(*arguments)
    assert (ran.code, ran.out) == (2, "")
    assert "Error: " in ran.err


@pytest.mark.parametrize(
    "arguments", [["run"], ["config", "list"], ["status"], ["healthcheck"], ["plan"], ["node", "list"]]
)
def test_a_bad_setting_is_78_and_all_are_told(cli: Cli, arguments: list[str]) -> None:
    ran = cli(*arguments, LISTEN_PORT="x", MTU="1")
    assert (ran.code, ran.out) == (78, "")
    assert "LISTEN_PORT: expected" in ran.err
    assert "MTU: expected" in ran.err


def _end(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def body(**_: object) -> None:
        raise error

    monkeypatch.setattr(main, "invoke", lambda _: body())


def test_errors_on_purpose_are_told_without_a_traceback(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    group = BaseExceptionGroup("tasks", [BaseExceptionGroup("more", [DeviceError("gone")])])
    for error, words in ((AdminError("no"), "error: no\n"), (group, "error: gone\n")):
        with monkeypatch.context() as patch:
            _end(patch, error)
            ran = cli("version")
        assert (ran.code, ran.err) == (1, words)


def test_interruption_is_130_and_a_broken_pipe_1(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    for error, code in ((KeyboardInterrupt(), 130), (BrokenPipeError(), 1)):
        with monkeypatch.context() as patch:
            _end(patch, error)
            assert cli("version").code == code


def test_a_bug_stays_a_traceback(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    for error in (ZeroDivisionError(), BaseExceptionGroup("tasks", [ZeroDivisionError()])):
        with monkeypatch.context() as patch, pytest.raises((ZeroDivisionError, BaseExceptionGroup)):
            _end(patch, error)
            cli("version")


def test_the_table_of_commands_is_sorted_and_true() -> None:
    assert list(_COMMANDS) == sorted(_COMMANDS)
    for name in COMMANDS:
        command = main.get_command(click.Context(main), name)
        assert command is not None and command.name == name


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["stat"], "No such command 'stat'. Did you mean 'status'?"),
        (["node", "lst"], "No such command 'lst'. Did you mean 'list'?"),
        (["plan", "--netwrok", "base"], "No such option '--netwrok'. Did you mean '--network'?"),
    ],
)
def test_a_mistyped_name_is_answered_with_the_nearest(cli: Cli, arguments: list[str], said: str) -> None:
    ran = cli(*arguments)
    assert (ran.code, ran.out) == (2, "")
    assert said in ran.err


def test_nothing_is_suggested_for_what_is_near_to_no_command(cli: Cli) -> None:
    assert "Did you mean" not in cli("xyzzy").err
