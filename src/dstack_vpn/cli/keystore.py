"""The options for an account in a keystore file, and its password."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from dstack_vpn.config import Settings
from dstack_vpn.errors import ConfigError

_T = TypeVar("_T", bound=Callable[..., Any])
_PATH: Final = click.Path(path_type=Path, dir_okay=False)

KEYSTORE_OPTIONS: Final = (
    click.option(
        "--password-file",
        type=_PATH,
        metavar="FILE",
        help="The file with the keystore's password; default: CONTRACT_KEYSTORE_PASSWORD, or a prompt.",
    ),
    click.option(
        "--keystore",
        type=_PATH,
        metavar="FILE",
        help="A keystore file (Web3 secret storage, version 3) instead of CONTRACT_PRIVATE_KEY.",
    ),
)


def with_keystore(command: _T) -> _T:
    """Add the options to a command."""
    for option in KEYSTORE_OPTIONS:
        command = option(command)
    return command


@dataclass(frozen=True, slots=True)
class Keystore:
    """A keystore file, and the file with its password."""

    path: Path
    password_file: Path | None

    def unlock(self, settings: Settings) -> Settings:
        """Return the settings with the keystore's account.

        Raises `ConfigError` and `AdminError`.
        """
        from dstack_vpn.wiring import keystore

        return keystore.unlock(settings, self.path, self.password_file, _ask)


def needed_account(values: Mapping[str, Any]) -> list[str]:
    """Return the setting of the account, which a keystore replaces; raises `UsageError`."""
    if values["keystore"] is not None:
        return []
    if values["password_file"] is not None:
        raise click.UsageError("--password-file is only for --keystore")
    return ["CONTRACT_PRIVATE_KEY"]


def _ask() -> str:
    if not sys.stdin.isatty():
        problem = (
            "CONTRACT_KEYSTORE_PASSWORD (or CONTRACT_KEYSTORE_PASSWORD_FILE): is not set, and there is no "
            "terminal for a prompt. Example: --password-file=/etc/dstack-vpn/password"
        )
        raise ConfigError([problem])
    return str(click.prompt("Password of the keystore", hide_input=True, err=True))
