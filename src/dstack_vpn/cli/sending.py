"""Commands that send a transaction: their flags, progress and results.

Progress goes to standard error, the result to standard output; with ``--json`` it is one document.
"""

import asyncio
import functools
import json
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec, TypeVar, cast

import click

from dstack_vpn.cli.options import with_settings
from dstack_vpn.cli.text import printable
from dstack_vpn.config import Settings
from dstack_vpn.errors import AdminError

if TYPE_CHECKING:
    from dstack_vpn.wiring.node import Administrator, Receipt

CHAIN: Final = ("NETWORK", "RPC_URL", "CHAIN_ID", "CONTRACT_ADDRESS", "CONTRACT_ABI")
TIMEOUT: Final = 120
"""The default time to wait for a receipt, in seconds."""

_P = ParamSpec("_P")
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Sending:
    """The tools for a command to send transactions and report their outcome."""

    settings: Settings
    timeout: int
    as_json: bool

    def carry_out(self, work: Callable[["Administrator"], Awaitable[_T]]) -> _T:
        """Run ``work`` with an administrator, and show its progress."""
        from dstack_vpn.wiring import node as wiring

        async def run(admin: "Administrator") -> _T:
            return await work(admin)

        with progress() as show:
            return asyncio.run(run(wiring.administrator(self.settings, show, self.timeout)))

    def report(self, result: str, receipt: "Receipt", **facts: object) -> None:
        """Print the result as text or as JSON, and record it in the audit log."""
        from dstack_vpn.wiring.audit_log import record

        record(self.settings, "admin.transaction", what=result, **_facts(receipt))
        if self.as_json:
            click.echo(json.dumps({**facts, **_facts(receipt)}))
            return
        click.echo(printable(result))
        click.echo(f"transaction {receipt.hash}")
        click.echo(f"block {receipt.block}, gas {receipt.gas_used}, fee {receipt.fee_text}")


def _facts(receipt: "Receipt") -> Mapping[str, Any]:
    return {
        "transaction": receipt.hash,
        "block": receipt.block,
        "gas_used": receipt.gas_used,
        "fee_wei": receipt.fee,
    }


def sends(
    *names: str, fallback: Mapping[str, str] | None = None
) -> Callable[[Callable[Concatenate[Sending, _P], None]], Callable[_P, None]]:
    """Pass a `Sending` to a command as first argument, with flags for the settings ``names``."""

    def decorate(command: Callable[Concatenate[Sending, _P], None]) -> Callable[_P, None]:
        def wrapped(settings: Settings, *args: Any, timeout: int, as_json: bool, **values: Any) -> None:  # noqa: ANN401 - click's
            command(Sending(settings, timeout, as_json), *args, **values)

        functools.update_wrapper(wrapped, command)
        with_flags = with_settings(*names, need=["CONTRACT_PRIVATE_KEY"], fallback=fallback)
        result = cast("Callable[_P, None]", with_flags(wrapped))
        result = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")(result)
        return click.option(
            "--timeout",
            type=click.IntRange(1, 86_400),
            default=TIMEOUT,
            show_default=True,
            metavar="SECONDS",
            help="Time to wait until the transaction is mined.",
        )(result)

    return decorate


@contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """Yield a function that shows each step: as a line, and in a terminal also as live progress."""
    if not sys.stderr.isatty():
        yield lambda step: click.echo(f"{printable(step)} ...", err=True)
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True, highlight=False)
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as display:
        task = display.add_task("connecting", total=None)

        def show(step: str) -> None:
            # The line stays after the display ends, also after Ctrl-C: it may name a transaction.
            display.console.print(printable(step), markup=False)
            display.update(task, description=printable(step))

        yield show


def check_can_ask(*, yes: bool) -> None:
    """Raise `AdminError` if a confirmation is needed but no terminal is available."""
    if not yes and not sys.stdin.isatty():
        raise AdminError("this can't be undone, and there is no terminal for a confirmation: add --yes")


def confirm(question: str, *, yes: bool) -> None:
    """Ask before an action that can't be undone; raises `AdminError` if the answer is no."""
    if not yes and not click.confirm(printable(question), err=True):
        raise AdminError("cancelled: nothing was changed")
