"""A policy's text from a file or from standard input, and its findings in the registry."""

import asyncio
import json
import sys
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from dstack_vpn.cli.node_reading import access_over
from dstack_vpn.cli.sending import CHAIN
from dstack_vpn.cli.text import printable
from dstack_vpn.config import Settings
from dstack_vpn.core.chain.contract import MAX_POLICY, ContractState
from dstack_vpn.core.paths.destination import overlap
from dstack_vpn.core.policy.directory import MemberDirectory
from dstack_vpn.core.policy.document import PolicyDocument, decode_policy, parse_policy
from dstack_vpn.core.policy.evaluation import NO_SOURCE, failures, unmatched
from dstack_vpn.core.policy.hujson import TextError
from dstack_vpn.core.policy.members import directory_of
from dstack_vpn.core.policy.selectors import Selector, SelectorKind
from dstack_vpn.errors import AdminError, ChainError, TryAgainError

if TYPE_CHECKING:
    from dstack_vpn.wiring.node import Snapshot
    from dstack_vpn.wiring.policy import RegistryPolicy

_T = TypeVar("_T")

READING: Final = (*CHAIN, "START_BLOCK", "VPN_CIDR", "GRANT_CONFIRMATIONS")
"""The settings for a reading of the members."""
FILE: Final = click.Path(dir_okay=False, allow_dash=True, path_type=Path)
_INPUT: Final = Path("-")


@dataclass(frozen=True, slots=True)
class PolicyFile:
    """A policy with the name of its file, for messages."""

    name: str
    text: str
    document: PolicyDocument


def name_of(path: Path) -> str:
    """Return a file's name for messages."""
    return "<stdin>" if path == _INPUT else printable(path)


def read_file(path: Path) -> PolicyFile:
    """Read a policy; ``-`` is standard input. Raises `TextError` and `AdminError`."""
    try:
        if path == _INPUT:
            content = sys.stdin.buffer.read(MAX_POLICY + 1)
        else:
            with path.open("rb") as file:
                content = file.read(MAX_POLICY + 1)
    except (OSError, ValueError) as error:  # ValueError: a name with a null character
        problem = error.strerror if isinstance(error, OSError) else "not a file's name"
        raise AdminError(f"can't read {name_of(path)}: {problem}") from error
    text = decode_policy(content)
    return PolicyFile(name_of(path), text, parse_policy(text))


def usable_file(path: Path) -> PolicyFile:
    """Read a policy. If it is refused, print the problem with its position, and exit with 1."""
    try:
        return read_file(path)
    except TextError as error:
        click.echo(refusal(path, error), err=True)
        raise click.exceptions.Exit(1) from None


def refusal(path: Path, error: TextError) -> str:
    """Return the problem of a file's text in the form that editors read."""
    return f"{name_of(path)}:{error.line}:{error.column}: {printable(error.problem)}"


def read_registry(settings: Settings) -> "tuple[Snapshot, RegistryPolicy]":
    """Read all nodes and the policy; raises `TryAgainError` if no endpoint serves them."""
    from dstack_vpn.wiring import policy as wiring

    return reading(wiring.read_all(settings))


def reading(work: Coroutine[Any, Any, _T]) -> _T:
    """Return the result of a reading; raises `TryAgainError` instead of `ChainError`.

    Exit code 1 is for a policy that is refused, or that denies a connection.
    """
    try:
        return asyncio.run(work)
    except ChainError as error:
        raise TryAgainError(f"the registry can't be read: {error}") from error


def members_of(settings: Settings, snapshot: "Snapshot") -> MemberDirectory:
    """Return the members with access."""
    from dstack_vpn.wiring import node as wiring

    return directory_of(access_over(settings, snapshot), wiring.judged_now(settings, snapshot.at))


@dataclass(frozen=True, slots=True)
class Findings:
    """The problems of a policy in a registry."""

    failures: tuple[dict[str, Any], ...]
    """The failing tests, as JSON values."""
    warnings: tuple[str, ...]

    @classmethod
    def of(cls, policy: PolicyDocument, directory: MemberDirectory, contract: ContractState) -> "Findings":
        """Run the tests of a policy, and look for selectors that name no member."""
        failing = (
            {"number": each.number, "line": policy.tests[each.number - 1].line, "problem": each.problem}
            for each in failures(policy, directory)
        )
        return cls(tuple(failing), tuple(_warnings(policy, directory, contract)))

    def show(self, file: str) -> None:
        """Print all on standard error."""
        for warning in self.warnings:
            click.secho(f"warning: {file}: {printable(warning)}", err=True, fg="yellow")
        for each in self.failures:
            problem = f"test {each['number']} fails: {printable(each['problem'])}"
            click.secho(f"{file}:{each['line']}: {problem}", err=True, fg="red")


def _warnings(policy: PolicyDocument, directory: MemberDirectory, contract: ContractState) -> Iterator[str]:
    undefined = [tag for tag in _tags(policy) if tag.value not in contract.tag_names]
    for tag in undefined:
        yield f"{tag} is not defined in the registry"
    for selector in unmatched(policy, directory):
        if selector not in undefined:
            yield f"{selector} names no member"
    yield from _of_networks(policy, directory)


def _of_networks(policy: PolicyDocument, directory: MemberDirectory) -> Iterator[str]:
    """Yield the selectors of networks that open nothing."""
    sources = {each for grant in policy.grants for each in grant.src if each.kind is SelectorKind.NETWORK}
    for source in sorted(sources, key=str):
        yield f"{source} opens nothing as a source: {NO_SOURCE}"
    routes = [route for member in directory.members for route in member.routes]
    for target in dict.fromkeys(each for grant in policy.grants for each in grant.dst):
        if target.kind is SelectorKind.INTERNET and all(route.prefixlen for route in routes):
            yield f"{target}: no member has 0.0.0.0/0 or ::/0 among its routes"
        if target.kind is SelectorKind.NETWORK and not any(
            route.prefixlen and overlap(route, target.network) for route in routes
        ):
            yield f"{target} overlaps no route of a member"


def _tags(policy: PolicyDocument) -> dict[Selector, None]:
    """Return the tags that a policy names, in its order."""
    of_grants = (each for grant in policy.grants for each in (*grant.src, *grant.dst))
    of_tests = (
        each for test in policy.tests for each in (test.src, *(t.dst for t in (*test.accept, *test.deny)))
    )
    found = (*of_grants, *of_tests)
    return dict.fromkeys(each for each in found if each.kind is SelectorKind.TAG)


def print_json(document: object) -> None:
    """Print a document on standard output."""
    click.echo(json.dumps(document))
