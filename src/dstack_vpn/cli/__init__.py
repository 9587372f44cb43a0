"""The command line: one module per group of commands, loaded on use.

Exit codes: 0 success, 1 failure, 2 usage, 75 unknown outcome or temporary failure (EX_TEMPFAIL of
sysexits.h), 78 configuration (EX_CONFIG).
"""

import importlib
import sys
from collections.abc import Sequence
from typing import Final

import click
from click.exceptions import NoSuchCommand

from dstack_vpn import __version__
from dstack_vpn.cli.text import printable_lines
from dstack_vpn.errors import ConfigError, DstackVpnError, InTheWayError, TryAgainError, UnknownOutcomeError

FAILED: Final = 1
UNKNOWN: Final = 75
CONFIGURATION: Final = 78

_COMMANDS: Final = {
    "attest": "attest:attest",
    "audit": "audit:audit",
    "client": "client:client",
    "completion": "completion:completion",
    "config": "config:config",
    "contract": "contract:contract",
    "dev": "dev:dev",
    "doctor": "doctor:doctor",
    "healthcheck": "watch:healthcheck",
    "invite": "invite:invite",
    "keygen": "keys:keygen",
    "node": "node:node",
    "plan": "plan:plan",
    "policy": "policy:policy",
    "pubkey": "keys:pubkey",
    "relay": "relay:relay",
    "run": "daemon:run",
    "status": "watch:status",
    "support-bundle": "bundle:support_bundle",
    "tag": "tag:tag",
    "top": "top:top",
    "version": "version:version",
}
"""Each command's module and function. A command loads no libraries of other commands."""


class _Lazy(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, _, name = _COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(f"dstack_vpn.cli.{module}"), name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except NoSuchCommand as error:
            # By default, click suggests only commands that are loaded.
            raise NoSuchCommand(error.command_name, possibilities=_COMMANDS, ctx=ctx) from None


@click.group(
    cls=_Lazy,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Settings come from flags, the environment and a TOML file: see docs/configuration.md.",
)
@click.version_option(__version__, message="dstack-vpn %(version)s")
def main() -> None:
    """A private WireGuard network whose members are decided on chain."""


def run(arguments: Sequence[str], command: click.Command = main, prog_name: str = "dstack-vpn") -> int:
    """Run a command line and return the exit code; show expected errors without a traceback."""
    try:
        # Without its standalone mode, click returns the argument of `ctx.exit`.
        code: object = command.main(args=list(arguments), prog_name=prog_name, standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return 130
    except BrokenPipeError:
        return FAILED
    except BaseExceptionGroup as group:
        return _explain(_only(group))
    except DstackVpnError as error:
        return _explain(error)
    return code if isinstance(code, int) else 0


def _only(group: BaseExceptionGroup[BaseException]) -> DstackVpnError:
    """Return the expected error that ended a group of tasks; raise the group if it has none."""
    found: BaseException | None = group.subgroup(DstackVpnError)
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    if not isinstance(found, DstackVpnError):
        raise group
    return found


def _explain(error: DstackVpnError) -> int:
    if isinstance(error, ConfigError):
        click.echo("The configuration can't be used:", err=True)
        for problem in error.problems:
            click.echo(f"  - {printable_lines(problem)}", err=True)
        return CONFIGURATION
    if isinstance(error, InTheWayError):
        click.echo("Something on this host conflicts with the node; nothing was changed:", err=True)
        for problem in error.problems:
            click.echo(f"  - {printable_lines(problem)}", err=True)
        return CONFIGURATION
    click.secho(f"error: {printable_lines(error)}", err=True, fg="red" if sys.stderr.isatty() else None)
    return UNKNOWN if isinstance(error, (TryAgainError, UnknownOutcomeError)) else FAILED
