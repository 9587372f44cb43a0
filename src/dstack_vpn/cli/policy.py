"""`policy`: which members may talk to which; see `policy_explaining` and `policy_setting`."""

from pathlib import Path

import click

from dstack_vpn.cli.options import with_settings
from dstack_vpn.cli.policy_explaining import explain
from dstack_vpn.cli.policy_setting import remove, set_
from dstack_vpn.cli.policy_text import (
    FILE,
    READING,
    Findings,
    members_of,
    print_json,
    read_file,
    read_registry,
    reading,
    refusal,
)
from dstack_vpn.cli.sending import CHAIN
from dstack_vpn.cli.text import printable_text
from dstack_vpn.config import Settings
from dstack_vpn.core.policy.document import CLOSED_POLICY
from dstack_vpn.core.policy.hujson import TextError
from dstack_vpn.core.policy.reach import compare, count
from dstack_vpn.errors import AdminError


@click.group()
def policy() -> None:
    """Check, explain and change the policy: which members may talk to which.

    Without a policy, every member reaches every other. With one, a connection needs a grant.
    """


@policy.command(
    epilog="""\b
Examples:
  dstack-vpn policy check policy.json
  dstack-vpn policy check - < policy.json"""
)
@click.argument("file", type=FILE)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@with_settings(*READING)
@click.pass_context
def check(ctx: click.Context, settings: Settings, file: Path, *, as_json: bool) -> None:
    """Check a policy's text, and run its tests against the registry. Nothing is sent.

    Exits with 1 if the text is refused or a test fails. A hyphen as FILE is standard input.
    """
    try:
        found = read_file(file)
    except TextError as error:
        click.echo(refusal(file, error), err=True)
        if as_json:
            problem = {"line": error.line, "column": error.column, "problem": error.problem}
            print_json({"valid": False, "refusal": problem})
        ctx.exit(1)
    snapshot, _ = read_registry(settings)
    members = members_of(settings, snapshot)
    findings = Findings.of(found.document, members, snapshot.registry.contract)
    findings.show(found.name)
    grants, tests = len(found.document.grants), len(found.document.tests)
    pairs = count(compare(CLOSED_POLICY, found.document, members).gained)
    if as_json:
        print_json(
            {
                "block": snapshot.at.number,
                "valid": not findings.failures,
                "refusal": None,
                "failures": findings.failures,
                "warnings": findings.warnings,
                "grants": grants,
                "tests": tests,
                "members": len(members.members),
                "pairs": pairs,
            }
        )
    elif not findings.failures:
        click.echo(
            f"{found.name}: grants: {grants}, tests: {tests} (all pass), pairs of members that may talk: "
            f"{pairs} of {len(members.members) * (len(members.members) - 1)}"
        )
    if findings.failures:
        ctx.exit(1)


@policy.command(
    epilog="""\b
Examples:
  dstack-vpn policy show
  dstack-vpn policy show --json | jq -r .policy.text > policy.json"""
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@with_settings(*CHAIN)
def show(settings: Settings, *, as_json: bool) -> None:
    """Show the registry's policy as its author wrote it.

    Its hash and size go to standard error. Control characters are escaped; with --json the text is
    exact.
    """
    from dstack_vpn.wiring import policy as wiring

    found = reading(wiring.read_policy(settings))
    found.require_support()
    if found.policy is None:
        raise AdminError(
            "the registry has no policy, so every member reaches every other: set one with "
            "'dstack-vpn policy set FILE'"
        )
    text, size = found.policy.text or "", len((found.policy.text or "").encode())
    if as_json:
        content = {"hash": found.policy.hash, "bytes": size, "text": text}
        print_json({"block": found.at.number, "policy": content})
        return
    click.echo(f"policy {found.policy.hash}, {size} bytes, read at block {found.at.number}", err=True)
    click.echo(printable_text(text), nl=not text.endswith("\n"))


for command in (explain, remove, set_):
    policy.add_command(command)
