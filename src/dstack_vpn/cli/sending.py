"""Commands that send a transaction: their flags, progress and results.

Progress goes to standard error, the result to standard output; with ``--json`` it is one document.
"""

import asyncio
import functools
import json
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec, TypeVar, cast

import click

from dstack_vpn.cli.keystore import KEYSTORE_OPTIONS, Keystore, needed_account
from dstack_vpn.cli.options import with_settings
from dstack_vpn.cli.params import ACCOUNT
from dstack_vpn.cli.text import printable
from dstack_vpn.cli.withheld import show
from dstack_vpn.config import Settings
from dstack_vpn.core.chain.unsent import Mode, WithheldError
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
    mode: Mode = Mode.SEND
    sender: str | None = None
    """The account of a transaction that is not sent; None: that of the key, or unknown."""
    keystore: Keystore | None = None
    beside: bool = False
    """The command prints something else: the result as text goes to standard error."""

    @property
    def sends(self) -> bool:
        """False if the command only shows its transactions."""
        return self.mode is Mode.SEND

    def unlocked(self) -> "Sending":
        """Return the same with the keystore's account, whose password is asked for only once.

        Raises `ConfigError` and `AdminError`.
        """
        if self.keystore is None:
            return self
        return replace(self, settings=self.keystore.unlock(self.settings), keystore=None)

    def account(self) -> str | None:
        """Return the account of the transactions; None if it is unknown. Not with a keystore.

        Raises `AdminError` and `FormatError`.
        """
        from dstack_vpn.wiring import node as wiring

        return wiring.account_of(self.settings, self.mode, self.sender)

    def carry_out(self, work: Callable[["Administrator"], Awaitable[_T]], **facts: object) -> _T:
        """Run ``work`` with an administrator, and show its progress.

        If the command must not send its transactions, show them and exit with 0. ``facts`` are
        additional fields of that result as JSON.
        """
        from dstack_vpn.wiring import node as wiring

        async def run(admin: "Administrator") -> _T:
            return await work(admin)

        settings = self.unlocked().settings
        try:
            with progress() as step:
                admin = wiring.administrator(settings, step, self.timeout, self.mode, self.sender)
                return asyncio.run(run(admin))
        except WithheldError as withheld:
            show(withheld.transactions, self.mode, as_json=self.as_json, facts=facts)
            raise click.exceptions.Exit(0) from None

    def report(self, result: str, receipt: "Receipt", **facts: object) -> None:
        """Print the result as text or as JSON, and record it in the audit log."""
        from dstack_vpn.wiring.audit_log import record

        record(self.settings, "admin.transaction", what=result, **_facts(receipt))
        if self.as_json:
            click.echo(json.dumps({**facts, **_facts(receipt)}))
            return
        click.echo(printable(result), err=self.beside)
        click.echo(f"transaction {receipt.hash}", err=self.beside)
        click.echo(f"block {receipt.block}, gas {receipt.gas_used}, fee {receipt.fee_text}", err=self.beside)

    def report_all(self, result: str, receipts: Sequence["Receipt"], **facts: object) -> None:
        """Print the result of several transactions, and record each in the audit log."""
        from dstack_vpn.wiring.audit_log import record

        for receipt in receipts:
            record(self.settings, "admin.transaction", what=result, **_facts(receipt))
        if self.as_json:
            click.echo(json.dumps({**facts, "transactions": [_facts(receipt) for receipt in receipts]}))
            return
        click.echo(printable(result))
        for receipt in receipts:
            click.echo(f"transaction {receipt.hash}, block {receipt.block}, gas {receipt.gas_used}")


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
        def wrapped(  # the types of `Any` are click's
            settings: Settings,
            *args: Any,  # noqa: ANN401 - click passes them on
            timeout: int,
            as_json: bool,
            dry_run: bool,
            calldata: bool,
            sender: str | None,
            keystore: Path | None,
            password_file: Path | None,
            **values: Any,  # noqa: ANN401 - click passes them on
        ) -> None:
            mode = Mode.DRY_RUN if dry_run else Mode.CALLDATA if calldata else Mode.SEND
            file = None if keystore is None else Keystore(keystore, password_file)
            command(Sending(settings, timeout, as_json, mode, sender, file), *args, **values)

        functools.update_wrapper(wrapped, command)
        with_flags = with_settings(*names, need=_needed, fallback=fallback)
        result = cast("Callable[_P, None]", with_flags(wrapped))
        for option in _OPTIONS:
            result = option(result)
        return result

    return decorate


_OPTIONS: Final = (
    *KEYSTORE_OPTIONS,
    click.option("--json", "as_json", is_flag=True, help="Print the result as JSON."),
    click.option(
        "--sender",
        "sender",
        type=ACCOUNT,
        help="The account that will send the transaction; only with --dry-run or --calldata, which then "
        "need no key.",
    ),
    click.option(
        "--calldata",
        is_flag=True,
        help="Send nothing. Print the transaction's to, data and value, for a Safe or a hardware wallet. "
        "This needs no key.",
    ),
    click.option(
        "--dry-run", is_flag=True, help="Send nothing. Simulate the transaction, and print its gas and fee."
    ),
    click.option(
        "--timeout",
        type=click.IntRange(1, 86_400),
        default=TIMEOUT,
        show_default=True,
        metavar="SECONDS",
        help="Time to wait until the transaction is mined.",
    ),
)


def _needed(values: Mapping[str, Any]) -> list[str]:
    """Return the settings that a command needs; raises `UsageError` for options that conflict."""
    dry_run, calldata, sender = values["dry_run"], values["calldata"], values["sender"]
    if dry_run and calldata:
        raise click.UsageError("--dry-run and --calldata can't be given together")
    if sender is not None and not (dry_run or calldata):
        raise click.UsageError("--sender is only for --dry-run and --calldata: a key determines its account")
    if values["keystore"] is not None and (calldata or sender is not None):
        raise click.UsageError("--keystore is for an account that signs, without --calldata and --sender")
    return [] if calldata or sender is not None else needed_account(values)


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


def check_can_ask(*, yes: bool, why: str = "this can't be undone") -> None:
    """Raise `AdminError` if a confirmation is needed but no terminal is available."""
    if not yes and not sys.stdin.isatty():
        raise AdminError(f"{why}, and there is no terminal for a confirmation: add --yes")


def confirm(question: str, *, yes: bool) -> None:
    """Ask before an action with consequences; raises `AdminError` if the answer is no."""
    if not yes and not click.confirm(printable(question), err=True):
        raise AdminError("cancelled: nothing was changed")
