"""The output of a command that does not send its transactions (``--dry-run``, ``--calldata``)."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import click

from dstack_vpn.core.chain.unsent import Mode, Unsent

ETHER: Final = 10**18


def show(
    transactions: Sequence[Unsent], mode: Mode, *, as_json: bool, facts: Mapping[str, object] | None = None
) -> None:
    """Print transactions that were not sent: one as a document, several as a list in one.

    ``facts`` are additional fields of the JSON document.
    """
    describe = _gas if mode is Mode.DRY_RUN else _content
    found = [describe(each) for each in transactions]
    if as_json:
        document = found[0] if len(found) == 1 else {"transactions": found}
        click.echo(json.dumps({**(facts or {}), **document}))
        return
    for number, each in enumerate(found, 1):
        if len(found) > 1:
            click.echo(f"transaction {number} of {len(found)}")
        for name, value in each.items():
            if name != "data" or mode is Mode.CALLDATA:
                click.echo(f"{name.replace('_', ' '):<12} {_text(name, value)}")
    click.echo("Nothing was sent.", err=True)


def _content(transaction: Unsent) -> Mapping[str, Any]:
    return {
        "chain_id": transaction.chain_id,
        "to": transaction.to,
        "value": "0",
        "data": "0x" + transaction.data.hex(),
    }


def _gas(transaction: Unsent) -> Mapping[str, Any]:
    return {
        "from": transaction.sender,
        **_content(transaction),
        "gas": transaction.gas,
        "max_fee_wei": transaction.highest_fee,
    }


def _text(name: str, value: object) -> str:
    if value is None:
        return "(creates a contract)"
    if name == "max_fee_wei" and isinstance(value, int):
        return f"{value} ({value / ETHER:.9f} ETH)"
    return str(value)
