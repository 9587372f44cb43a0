"""Commands that send a transaction: their flags, what they show meanwhile, and how they tell the result.

Progress goes to standard error, the result to standard output: with ``--json`` that is one document.
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
"""Seconds to wait for a receipt, by default."""

_P = ParamSpec("_P")
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Sending:
    """The tools for a command to send transactions and report their outcome."""

    settings: Settings
    timeout: int
    as_json: bool

    def carry_out(self, work: Callable[["Administrator"], Awaitable[_T]]) -> _T:
        """Do the work with an administrator's rights, showing its progress."""
        from dstack_vpn.wiring import node as wiring

        async def run(admin: "Administrator") -> _T:
            return await work(admin)

        with progress() as tell:
            return asyncio.run(run(wiring.administrator(self.settings, tell, self.timeout)))

    def tell(self, sentence: str, receipt: "Receipt", **facts: object) -> None:
        """The result: a sentence for people, or everything as JSON. The audit log gets it, too."""
        from dstack_vpn.wiring.audit_log import record

        record(self.settings, "admin.transaction", what=sentence, **_facts(receipt))
        if self.as_json:
            click.echo(json.dumps({**facts, **_facts(receipt)}))
            return
        click.echo(printable(sentence))
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
    """Give a command a `Sending` as first argument, and the flags for it; ``names`` are its settings."""

    def decorate(command: Callable[Concatenate[Sending, _P], None]) -> Callable[_P, None]:
        def wrapped(settings: Settings, *args: Any, timeout: int, as_json: bool, **values: Any) -> None:  # noqa: ANN401 - click's
            command(Sending(settings, timeout, as_json), *args, **values)

        functools.update_wrapper(wrapped, command)
        with_flags = with_settings(*names, need=["CONTRACT_PRIVATE_KEY"], fallback=fallback)
        result = cast("Callable[_P, None]", with_flags(wrapped))
        result = click.option("--json", "as_json", is_flag=True, help="The result as JSON.")(result)
        return click.option(
            "--timeout",
            type=click.IntRange(1, 86_400),
            default=TIMEOUT,
            show_default=True,
            metavar="SECONDS",
            help="How long to wait for the transaction to be mined.",
        )(result)

    return decorate


@contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """Something to tell each step to: lines, and in a terminal also what goes on and for how long."""
    if not sys.stderr.isatty():
        yield lambda step: click.echo(f"{printable(step)} ...", err=True)
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True, highlight=False)
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as display:
        task = display.add_task("connecting", total=None)

        def tell(step: str) -> None:
            # The line stays when the display goes, also after Ctrl-C: it may name a transaction.
            display.console.print(printable(step), markup=False)
            display.update(task, description=printable(step))

        yield tell


def check_can_ask(*, yes: bool) -> None:
    """Raise `AdminError` if no confirmation can be asked for, before anything is looked up."""
    if not yes and not sys.stdin.isatty():
        raise AdminError("this can't be taken back: say --yes, as there is no terminal to ask on")


def confirm(question: str, *, yes: bool) -> None:
    """Ask before something that can't be taken back; raises `AdminError` if the answer is no."""
    if not yes and not click.confirm(printable(question), err=True):
        raise AdminError("nothing was done")
