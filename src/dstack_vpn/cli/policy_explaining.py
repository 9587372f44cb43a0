"""`policy explain`: the decision about one connection, with the grants that decide."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from dstack_vpn.cli.completing import nodes
from dstack_vpn.cli.node_reading import access_over
from dstack_vpn.cli.options import with_settings
from dstack_vpn.cli.params import FLOW, NAMED, Subject
from dstack_vpn.cli.policy_text import (
    FILE,
    READING,
    members_of,
    name_of,
    print_json,
    read_registry,
    usable_file,
)
from dstack_vpn.cli.text import printable
from dstack_vpn.config import Settings
from dstack_vpn.core.addresses import IPAddress, unmapped
from dstack_vpn.core.policy.directory import Member, MemberDirectory
from dstack_vpn.core.policy.document import NO_POLICY, PolicyDocument, parse_policy
from dstack_vpn.core.policy.evaluation import Packet, PacketDecision, decide
from dstack_vpn.core.policy.hujson import TextError
from dstack_vpn.core.policy.selectors import Ports
from dstack_vpn.core.wireguard.keys import PublicKey
from dstack_vpn.errors import AdminError, TryAgainError

if TYPE_CHECKING:
    from dstack_vpn.wiring.node import Snapshot
    from dstack_vpn.wiring.policy import RegistryPolicy

_SHOWN: Final = 120
"""The number of characters of a grant's line that are shown."""


@dataclass(frozen=True, slots=True)
class _Source:
    """A policy in force, with its name for messages."""

    name: str
    document: PolicyDocument
    text: str = ""


@dataclass(frozen=True, slots=True)
class _End:
    """One end of the connection."""

    label: str
    addresses: tuple[IPAddress, ...]
    problem: str | None = None
    """The reason that it has no access."""


@click.command(
    epilog="""\b
Examples:
  dstack-vpn policy explain web-1 db tcp:5432
  dstack-vpn policy explain 10.77.0.8 192.168.7.9 icmp
  dstack-vpn policy explain web-1 db udp:53 --file policy.json --json"""
)
@click.argument("src", metavar="SRC", type=NAMED, shell_complete=nodes)
@click.argument("dst", metavar="DST", type=NAMED, shell_complete=nodes)
@click.argument("flow", metavar="PROTOCOL:PORT", type=FLOW)
@click.option("--file", type=FILE, help="A policy's file, instead of the registry's policy.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@with_settings(*READING, "POLICY_FILE")
@click.pass_context
def explain(
    ctx: click.Context,
    settings: Settings,
    src: Subject,
    dst: Subject,
    flow: Ports,
    *,
    file: Path | None,
    as_json: bool,
) -> None:
    """Show whether the policy allows a connection, and the grants that decide.

    SRC and DST are node ids, token ids or addresses. With POLICY_FILE, each of the two policies
    must allow it. Exits with 0 if it is allowed, with 1 if it is denied, and with 75 if the
    registry can't be read.
    """
    own = [] if file is None else [_of_file(name_of(file), file)]
    beside = settings.policy_file
    own += [] if beside is None else [_of_file(f"POLICY_FILE {printable(beside)}", beside)]
    snapshot, registry = read_registry(settings)
    sources = [*([] if file is not None else _of_registry(registry)), *own]
    members = members_of(settings, snapshot)
    here, there = (_end(settings, snapshot, members, subject) for subject in (src, dst))
    decisions = _decisions(sources, members, here, there, flow)
    allowed = all(decision.allowed for _, decision in decisions)
    if as_json:
        listed = [_json(source, decision) for source, decision in decisions]
        ends = {"src": here.label, "dst": there.label, "packet": str(flow)}
        print_json({"block": snapshot.at.number, "allowed": allowed, **ends, "policies": listed})
    else:
        _show(here, there, flow, decisions, allowed=allowed)
    ctx.exit(0 if allowed else 1)


def _of_file(name: str, path: Path) -> _Source:
    found = usable_file(path)
    return _Source(name, found.document, found.text)


def _of_registry(registry: "RegistryPolicy") -> Iterator[_Source]:
    """Yield the registry's policy, if it has one; raises `TryAgainError` if it can't be used."""
    if registry.policy is None:
        return
    text = registry.policy.text or ""
    try:
        document = parse_policy(text)
    except TextError as error:
        raise TryAgainError(
            f"the registry's policy can't be used ({error}), so each node keeps the last good one: set "
            "another policy, or explain with --file"
        ) from error
    yield _Source(f"the registry's policy {registry.policy.hash[:10]}...", document, text)


def _end(settings: Settings, snapshot: "Snapshot", members: MemberDirectory, subject: Subject) -> _End:
    """Look one end up; raises `AdminError` if the registry has no such node."""
    from dstack_vpn.wiring import node as wiring

    assert not isinstance(subject, PublicKey)
    if isinstance(subject, IPAddress):
        address = unmapped(subject)
        member = members.place(address).member
        return _End(str(address) if member is None else _label(member, (address,)), (address,))
    node = subject.find(snapshot.registry)
    if node is None:
        name = subject.node_id or subject.token
        raise AdminError(f"the registry has no node {printable(name)}")
    found = next((each for each in members.members if each.token == node.token_id), None)
    if found is None:
        decision = access_over(settings, snapshot).decide(
            node.token_id, wiring.judged_now(settings, snapshot.at)
        )
        label = node.node_id if isinstance(node.node_id, str) else f"token {node.token_id}"
        return _End(label, (), f"{label} has no access: {decision}")
    addresses = tuple(sorted(found.addresses, key=lambda each: each.version))
    return _End(_label(found, addresses), addresses)


def _label(member: Member, addresses: Sequence[IPAddress]) -> str:
    return f"{member} ({', '.join(map(str, addresses))})"


def _decisions(
    sources: Sequence[_Source], members: MemberDirectory, here: _End, there: _End, flow: Ports
) -> list[tuple[_Source, PacketDecision]]:
    """Return the decision of each policy."""
    network = _Source("the network", NO_POLICY)
    for end in (here, there):
        if end.problem is not None:
            return [(network, PacketDecision(allowed=False, grants=(), reason=end.problem))]
    pairs = [(a, b) for a, b in product(here.addresses, there.addresses) if a.version == b.version]
    if not pairs:
        raise AdminError(f"{here.label} and {there.label} have no addresses of the same IP version")
    packet = Packet(*pairs[0], flow.protocol, flow.first)
    if sources:
        return [(source, decide(source.document, members, packet)) for source in sources]
    found = decide(NO_POLICY, members, packet)
    if not found.allowed:
        return [(network, found)]
    return [(network, PacketDecision(allowed=True, grants=(), reason="there is no policy"))]


# -- output ----------------------------------------------------------------------------------------


def _grants(source: _Source, decision: PacketDecision) -> list[dict[str, Any]]:
    """Return the grants that decided, with their lines."""
    lines = source.text.split("\n")
    return [
        {"number": number, "line": (line := source.document.grants[number - 1].line), "text": lines[line - 1]}
        for number in decision.grants
        if source.text
    ]


def _json(source: _Source, decision: PacketDecision) -> dict[str, Any]:
    return {
        "policy": source.name,
        "allowed": decision.allowed,
        "reason": decision.reason,
        "grants": _grants(source, decision),
    }


def _show(
    here: _End,
    there: _End,
    flow: Ports,
    decisions: Sequence[tuple[_Source, PacketDecision]],
    *,
    allowed: bool,
) -> None:
    word = click.style("allowed" if allowed else "denied", "green" if allowed else "red")
    click.echo(f"{word}: {printable(here.label)} to {printable(there.label)}, {flow}")
    for source, decision in decisions:
        verb = "allows" if decision.allowed else "denies"
        click.echo(f"{source.name} {verb} it: {printable(decision.reason)}")
        for grant in _grants(source, decision):
            text = printable(grant["text"].strip())
            click.echo(f"  grant {grant['number']}, line {grant['line']}: {text[:_SHOWN]}")
