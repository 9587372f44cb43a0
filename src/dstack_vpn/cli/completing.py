"""Shell completion of values: fixed choices, the running daemon's nodes, and backups.

Completion never prints an error: without data there are no completions.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import click
from click.shell_completion import CompletionItem

from dstack_vpn import config
from dstack_vpn.config import OPTIONS, Option, Settings
from dstack_vpn.core.model import ZERO_ADDRESS
from dstack_vpn.errors import DstackVpnError

DEADLINE: Final = 0.5
"""The timeout in seconds for each read from the daemon, because the user waits after Tab."""


def one_of(option: Option) -> "Choices | None":
    """Return the type of a flag with fixed choices; None for others.

    The configuration checks the value.
    """
    return Choices(option.choices) if option.choices else None


class Choices(click.ParamType[str]):
    """A text with completions, which is not checked here."""

    name = "text"

    def __init__(self, choices: Iterable[str]) -> None:
        self.choices = tuple(choices)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem[Any]]:
        """See `click.ParamType.shell_complete`."""
        return [CompletionItem(each) for each in self.choices if each.startswith(incomplete)]


def nodes(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Return the node ids of the running daemon and its peers."""
    from dstack_vpn.cli.http import fetch

    try:
        found = fetch(_settings(ctx), "/stats", deadline=DEADLINE)
        names = [found["node_id"], *(peer["node_id"] for peer in found["peers"])]
    except (DstackVpnError, KeyError, TypeError):
        return []
    return sorted({n for n in names if isinstance(n, str) and n.isprintable() and n.startswith(incomplete)})


def backups(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Return the backups' names, and ``current`` if the command accepts it."""
    from dstack_vpn.wiring import node as wiring

    also = [] if ctx.info_name == "rollback" else ["current"]
    try:
        names = [*also, *(backup.name for backup in wiring.archive(_settings(ctx)).list())]
    except (DstackVpnError, OSError):
        return []
    return [name for name in names if name.startswith(incomplete)]


def _settings(ctx: click.Context) -> Settings:
    """Return the settings from the flags so far, else those of the running daemon.

    Raises `ConfigError` and `StoreError`.
    """
    from dstack_vpn.wiring.running import settings_of

    known = {option.key: option for option in OPTIONS if not option.secret}
    flags = {key: text for key, text in ctx.params.items() if key in known and isinstance(text, str)}
    file: Path | None = ctx.params.get("config_file")
    state_dir = config.look_up("state_dir", flags, file) or known["state_dir"].default
    # A contract is required, but completion does not use it.
    last = {"CONTRACT_ADDRESS": ZERO_ADDRESS, **settings_of(Path(state_dir or ""))}
    return config.load(flags, file=file, last=last)
