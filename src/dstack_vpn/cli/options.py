"""The settings as flags of commands."""

import functools
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Concatenate, Final, ParamSpec, TypeVar, cast

import click

from dstack_vpn import config
from dstack_vpn.cli.completing import one_of
from dstack_vpn.config import OPTIONS, Settings
from dstack_vpn.core.model import ZERO_ADDRESS
from dstack_vpn.errors import DstackVpnError, StoreError

_HTTP: Final = ("health_check_host", "health_check_port")
_DEFAULTS: Final = {option.key: option.default or "" for option in OPTIONS}
_P = ParamSpec("_P")
_T = TypeVar("_T")


def with_settings(
    *names: str,
    need: Iterable[str] | Callable[[Mapping[str, Any]], Iterable[str]] = (),
    fallback: Mapping[str, str] | None = None,
    of_daemon: bool = False,
    serves: bool = False,
) -> Callable[[Callable[Concatenate[Settings, _P], _T]], Callable[_P, _T]]:
    """Pass the settings to a command as first argument, with flags for ``names`` (default: all).

    ``need`` names the required settings, or returns them for the values of the command's other
    options. ``fallback`` has texts by variable for settings that every configuration requires but
    this command does not use. With ``of_daemon``, the settings of the
    daemon on this machine complete those of flags, environment and file. With ``serves``, the
    command reports unknown variables in its log.
    """
    options = [option for option in OPTIONS if not option.secret and (not names or option.name in names)]

    def decorate(command: Callable[Concatenate[Settings, _P], _T]) -> Callable[_P, _T]:
        def wrapped(*args: Any, config_file: Path | None, **values: Any) -> Any:  # noqa: ANN401 - click's
            given = {o.key: text for o in options if (text := values.pop(o.key)) is not None}
            last = {**(fallback or {}), **(_of_daemon(given, config_file) if of_daemon else {})}
            needed = frozenset(need(values) if callable(need) else need)
            settings = config.load(given, file=config_file, need=needed, last=last)
            for unknown in () if serves else settings.unknown:
                click.echo(f"warning: unknown setting in the environment: {unknown}", err=True)
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
    """Return the settings of the daemon on this machine; empty without an accessible one."""
    from dstack_vpn.wiring.running import settings_of

    named = config.look_up("state_dir", flags, file)
    state_dir = named or _state_dir_by_api(flags, file) or _DEFAULTS["state_dir"]
    try:
        return settings_of(Path(state_dir))
    except StoreError as error:
        click.echo(f"warning: {error}; using the shell's settings", err=True)
        return {}


def _state_dir_by_api(flags: Mapping[str, str], file: Path | None) -> str | None:
    """Return the state directory that the daemon's API reports; None without an answer.

    The API's address comes from the shell's settings or the defaults.
    """
    from dstack_vpn.cli.http import fetch

    http = {key: config.look_up(key, flags, file) or _DEFAULTS[key] for key in _HTTP}
    contract = {"CONTRACT_ADDRESS": ZERO_ADDRESS}  # required, but not used
    try:
        found = fetch(config.load(http, {}, last=contract), "/stats").get("state_dir")
    except DstackVpnError:
        return None
    return found if isinstance(found, str) else None


def _help(option: config.Option) -> str:
    default = f" [default: {option.default}]" if option.default else ""
    return f"{option.help}{default}"
