"""The settings as flags, for every command that needs some of them."""

import functools
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

import click

from dstack_vpn import config
from dstack_vpn.config import OPTIONS, Settings

_P = ParamSpec("_P")
_T = TypeVar("_T")


def with_settings(
    *names: str, need: Iterable[str] = (), fallback: Mapping[str, str] | None = None
) -> Callable[[Callable[Concatenate[Settings, _P], _T]], Callable[_P, _T]]:
    """Give a command its settings as first argument, and flags for those in ``names`` (default: all).

    ``need`` names what it can't do without; ``fallback`` has texts by option key for what it has no use for
    but every configuration must have.
    """
    options = [option for option in OPTIONS if not option.secret and (not names or option.name in names)]

    def decorate(command: Callable[Concatenate[Settings, _P], _T]) -> Callable[_P, _T]:
        def wrapped(*args: Any, config_file: Path | None, **values: Any) -> Any:  # noqa: ANN401 - click's
            given = {o.key: text for o in options if (text := values.pop(o.key)) is not None}
            flags = {**(fallback or {}), **given}
            return command(config.load(flags, file=config_file, need=frozenset(need)), *args, **values)

        result = cast("Callable[_P, _T]", functools.update_wrapper(wrapped, command))
        for option in reversed(options):
            result = click.option(option.flag, option.key, metavar="TEXT", help=_help(option))(result)
        path = click.Path(path_type=Path, dir_okay=False)
        return click.option("--config", "config_file", type=path, help="A TOML file with settings.")(result)

    return decorate


def _help(option: config.Option) -> str:
    default = f" [default: {option.default}]" if option.default else ""
    return f"{option.help}{default}"
