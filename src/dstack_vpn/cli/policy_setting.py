"""`policy set` and `policy remove`: a change of the policy, whose consequences are shown first."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from dstack_vpn.cli.policy_text import (
    FILE,
    READING,
    Findings,
    PolicyFile,
    members_of,
    print_json,
    read_registry,
    usable_file,
)
from dstack_vpn.cli.sending import Sending, check_can_ask, confirm, sends
from dstack_vpn.cli.text import printable
from dstack_vpn.core.chain.contract import ContractState
from dstack_vpn.core.chain.unsent import Mode
from dstack_vpn.core.policy.directory import MemberDirectory
from dstack_vpn.core.policy.document import CLOSED_POLICY, NO_POLICY, PolicyDocument, parse_policy
from dstack_vpn.core.policy.hujson import TextError
from dstack_vpn.core.policy.network_reach import NetworkBlock, NetworkChanges, compare_networks
from dstack_vpn.core.policy.reach import PairBlock, PairChanges, compare, count
from dstack_vpn.errors import AdminError

if TYPE_CHECKING:
    from dstack_vpn.wiring.policy import RegistryPolicy

_SHOWN: Final = 20
"""The number of pairs that are listed without --all."""
_WHY: Final = "this changes who may talk to whom"
_yes: Final = click.option("--yes", "-y", is_flag=True, help="Do not ask for a confirmation.")
_all: Final = click.option(
    "--all", "everything", is_flag=True, help=f"List all pairs that gain or lose access, not only {_SHOWN}."
)


@dataclass(frozen=True, slots=True)
class _State:
    """The registry before the change."""

    members: MemberDirectory
    contract: ContractState
    registry: "RegistryPolicy"


def _in_force(registry: "RegistryPolicy") -> PolicyDocument:
    """Return the policy that a change is compared with; warn if the registry's can't be used."""
    if registry.policy is None:
        return NO_POLICY
    try:
        return parse_policy(registry.policy.text or "")
    except TextError as error:
        problem = f"the registry's policy can't be used ({error}): pairs are compared with no access"
        click.secho(f"warning: {printable(problem)}", err=True, fg="yellow")
        return CLOSED_POLICY


@click.command(
    "set",
    epilog="""\b
Examples:
  dstack-vpn policy set policy.json --dry-run
  dstack-vpn policy set policy.json
  dstack-vpn policy set policy.json --calldata --sender 0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC""",
)
@click.argument("file", type=FILE)
@_all
@_yes
@sends(*READING)
def set_(sending: Sending, file: Path, *, everything: bool, yes: bool) -> None:
    """Set the registry's policy. Only policy administrators and the contract's owner can.

    The policy's tests must pass with the present members. The pairs of members that gain or lose
    access are listed before a confirmation, and so is the access to networks and to the internet. A
    policy with a problem costs no gas.
    """
    found, yes = usable_file(file), yes or not sending.sends
    check_can_ask(yes=yes, why=_WHY)
    sending = sending.unlocked()
    state = _read(sending)
    _run_tests(found, state)
    grants, tests = len(found.document.grants), len(found.document.tests)
    facts = {"bytes": len(found.text.encode()), "grants": grants, "tests": tests}
    before = state.registry.policy
    if sending.sends and before is not None and before.text == found.text:
        _unchanged(sending, before.hash)
        return
    size = f"{grants} grants, {facts['bytes']} bytes"
    _send(sending, state, found, f"Set this policy ({size})?", everything=everything, yes=yes, facts=facts)


@click.command(
    epilog="""\b
Example:
  dstack-vpn policy remove --yes"""
)
@_all
@_yes
@sends(*READING)
def remove(sending: Sending, *, everything: bool, yes: bool) -> None:
    """Remove the registry's policy: every member then reaches every other.

    Only policy administrators and the contract's owner can.
    """
    yes = yes or not sending.sends
    check_can_ask(yes=yes, why=_WHY)
    sending = sending.unlocked()
    state = _read(sending)
    if state.registry.policy is None:
        raise AdminError("the registry has no policy; nothing was sent")
    question = "Remove the policy, so that every member reaches every other?"
    _send(sending, state, None, question, everything=everything, yes=yes, facts={})


def _read(sending: Sending) -> _State:
    """Read the registry; raises `AdminError` if the account may not set its policy."""
    from dstack_vpn.wiring import policy as wiring

    snapshot, registry = read_registry(sending.settings)
    registry.require_support()
    contract, account = snapshot.registry.contract, sending.account()
    if account is not None:
        wiring.require_administrator(contract, account)
    return _State(members_of(sending.settings, snapshot), contract, registry)


def _run_tests(found: PolicyFile, state: _State) -> None:
    """Show the findings; exit with 1 if a test fails."""
    findings = Findings.of(found.document, state.members, state.contract)
    findings.show(found.name)
    if findings.failures:
        click.echo("Nothing was sent.", err=True)
        raise click.exceptions.Exit(1)


def _unchanged(sending: Sending, policy: str) -> None:
    if sending.as_json:
        print_json({"policy": policy, "transaction": None})
        return
    click.echo(f"the registry has this policy already ({policy}); nothing was sent")


def _send(
    sending: Sending,
    state: _State,
    found: PolicyFile | None,
    question: str,
    *,
    everything: bool,
    yes: bool,
    facts: dict[str, Any],
) -> None:
    """Show the consequences, ask, and send; ``found`` None removes the policy."""
    from dstack_vpn.wiring import policy as wiring

    text, document = ("", NO_POLICY) if found is None else (found.text, found.document)
    former = _in_force(state.registry)
    changes = compare(former, document, state.members)
    networks = compare_networks(former, document, state.members)
    most = None if everything else _SHOWN
    # The result of a dry run is the list. Otherwise, standard output has only the transaction.
    if not (sending.as_json and not sending.sends):
        show_changes(changes, networks, most, err=sending.mode is not Mode.DRY_RUN)
    confirm(question, yes=yes)
    facts |= {
        "gained": _pairs(changes.gained, most),
        "lost": _pairs(changes.lost, most),
        "gained_networks": _networks(networks.gained, most),
        "lost_networks": _networks(networks.lost, most),
    }
    receipt = sending.carry_out(lambda admin: wiring.set_policy(admin, text, state.registry.hash), **facts)
    result = "the policy is removed" if found is None else f"the policy is set: {len(document.grants)} grants"
    sending.report(result, receipt, **facts)


# -- output ----------------------------------------------------------------------------------------


def show_changes(changes: PairChanges, networks: NetworkChanges, most: int | None, *, err: bool) -> None:
    """Print the access that members gain or lose: at most ``most`` lines of each kind, or all."""
    for blocks, verb, sign, colour in (
        (changes.gained, "gain", "+", "green"),
        (changes.lost, "lose", "-", "red"),
    ):
        if number := count(blocks):
            pairs = f"1 pair of members {verb}s" if number == 1 else f"{number} pairs of members {verb}"
            click.echo(f"{pairs} access:", err=err)
        listed = _pairs(blocks, most)["listed"]
        lines = [f"  {sign} {each['src']} to {each['dst']}: {', '.join(each['ports'])}" for each in listed]
        _list(lines, number, colour, err=err)
    if not changes.gained and not changes.lost:
        click.echo("No pair of members gains or loses access.", err=err)
    for opened, verb, sign, colour in (
        (networks.gained, "gain", "+", "green"),
        (networks.lost, "lose", "-", "red"),
    ):
        found = _networks(opened, most)
        if found["rights"]:
            click.echo(f"Access to networks that members {verb}:", err=err)
        lines = [
            f"  {sign} {each['src']} to {', '.join(each['dst'])}: {', '.join(each['ports'])}"
            for each in found["listed"]
        ]
        _list(lines, found["rights"], colour, err=err)


def _list(lines: Sequence[str], number: int, colour: str, *, err: bool) -> None:
    """Print the first lines of ``number``."""
    for line in lines:
        click.secho(printable(line), err=err, fg=colour)
    if number > len(lines):
        click.echo(f"  and {number - len(lines)} more (--all lists them)", err=err)


def _pairs(blocks: Sequence[PairBlock], most: int | None) -> dict[str, Any]:
    """Return the number of pairs, and the first of them, as JSON values."""
    listed = islice(_each(blocks), most)
    return {
        "pairs": count(blocks),
        "listed": [{"src": str(src), "dst": str(dst), "ports": ports} for src, dst, ports in listed],
    }


def _each(blocks: Iterable[PairBlock]) -> Iterator[tuple[object, object, list[str]]]:
    for block in blocks:
        ports = block.ports.texts()
        yield from ((src, dst, ports) for src, dst, _ in block)


def _networks(blocks: Sequence[NetworkBlock], most: int | None) -> dict[str, Any]:
    """Return the members with other ports of networks, as JSON values: a right for each member
    and set of ports.
    """
    rights = ((str(member), block) for block in blocks for member in block.members)
    return {
        "rights": sum(len(block.members) for block in blocks),
        "listed": [
            {"src": src, "dst": list(block.destinations), "ports": block.ports.texts()}
            for src, block in islice(rights, most)
        ],
    }
