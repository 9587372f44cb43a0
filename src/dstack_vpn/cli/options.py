"""The settings as flags, for every command that needs some of them."""

import functools
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Concatenate, Final, ParamSpec, TypeVar, cast

import click

from dstack_vpn import config
from dstack_vpn.cli.completing import one_of
from dstack_vpn.config import OPTIONS, Settings
from dstack_vpn.errors import DstackVpnError, StoreError

_HTTP: Final = ("health_check_host", "health_check_port")
_DEFAULTS: Final = {option.key: option.default or "" for option in OPTIONS}
_ANY: Final = "0x" + "0" * 40
"""A contract that is not asked."""
_P = ParamSpec("_P")
_T = TypeVar("_T")


def with_settings(
    *names: str,
    need: Iterable[str] = (),
    fallback: Mapping[str, str] | None = None,
    of_daemon: bool = False,
    serves: bool = False,
) -> Callable[[Callable[Concatenate[Settings, _P], _T]], Callable[_P, _T]]:
    """Give a command its settings as first argument, and flags for those in ``names`` (default: all).

    ``need`` names what it can't do without; ``fallback`` has texts by variable for what it has no use for but
    every configuration must have. A command about the daemon of this machine (``of_daemon``) has that
    daemon's settings for what neither flags nor environment nor file set. One that ``serves`` logs by itself.
    """
    options = [option for option in OPTIONS if not option.secret and (not names or option.name in names)]

    def decorate(command: Callable[Concatenate[Settings, _P], _T]) -> Callable[_P, _T]:
        def wrapped(*args: Any, config_file: Path | None, **values: Any) -> Any:  # noqa: ANN401 - click's
            given = {o.key: text for o in options if (text := values.pop(o.key)) is not None}
            last = {**(fallback or {}), **(_of_daemon(given, config_file) if of_daemon else {})}
            settings = config.load(given, file=config_file, need=frozenset(need), last=last)
            for unknown in () if serves else settings.unknown:
                click.echo(f"warning: the environment sets what is not a setting: {unknown}", err=True)
            return command(settings, *args, **values)

        result = cast("Callable[_P, _T]", functools.update_wrapper(wrapped, command))
        for option in reversed(options):
            result = click.option(
                option.flag,
                option.key,
                type=one_of(option),
                metavar="|".join(option.choices) or "TEXT",
                help=_help(option),
            )(result)
        path = click.Path(path_type=Path, dir_okay=False)
        return click.option("--config", "config_file", type=path, help="A TOML file with settings.")(result)

    return decorate


def _of_daemon(flags: Mapping[str, str], file: Path | None) -> dict[str, str]:
    """The settings of the daemon that runs here; empty if none does, or none that we may ask."""
    from dstack_vpn.wiring.running import settings_of

    named = config.look_up("state_dir", flags, file)
    where = named or _state_dir_by_api(flags, file) or _DEFAULTS["state_dir"]
    try:
        return settings_of(Path(where))
    except StoreError as error:
        click.echo(f"warning: {error}; these are the shell's settings", err=True)
        return {}


def _state_dir_by_api(flags: Mapping[str, str], file: Path | None) -> str | None:
    """What the daemon says about itself, at the address that the shell's settings or the defaults name."""
    from dstack_vpn.cli.http import fetch

    http = {key: config.look_up(key, flags, file) or _DEFAULTS[key] for key in _HTTP}
    try:
        found = fetch(config.load(http, {}, last={"CONTRACT_ADDRESS": _ANY}), "/stats").get("state_dir")
    except DstackVpnError:
        return None
    return found if isinstance(found, str) else None


def _help(option: config.Option) -> str:
    default = f" [default: {option.default}]" if option.default else ""
    return f"{option.help}{default}"
