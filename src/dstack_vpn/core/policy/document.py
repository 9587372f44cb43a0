"""A policy as its author writes it: text to grants and tests.

The language is a subset of Tailscale's grants. A text is accepted as a whole or refused as a whole,
with the line and the column of the first problem.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Final, NoReturn, TypeVar

from dstack_vpn.core.chain.contract import MAX_POLICY
from dstack_vpn.core.policy.hujson import Ambiguous, HujsonText, Path, TextError
from dstack_vpn.core.policy.selectors import Ports, Selector, SelectorKind
from dstack_vpn.errors import FormatError

_T = TypeVar("_T")
_TOO_LONG: Final = f"the policy has more than {MAX_POLICY:,} bytes"


@dataclass(frozen=True, slots=True)
class Grant:
    """Allows connections from any source to any destination of the grant, on its ports."""

    src: tuple[Selector, ...]
    dst: tuple[Selector, ...]
    ip: tuple[Ports, ...]
    line: int = field(default=0, compare=False)
    """The line of the text on which it begins, from 1; 0: there is no text."""


@dataclass(frozen=True, slots=True)
class PortTarget:
    """A destination with ports, in a test."""

    dst: Selector
    ports: Ports

    def __str__(self) -> str:
        return f"{self.dst}:{self.ports}"


@dataclass(frozen=True, slots=True)
class Expectation:
    """Connections that the policy must allow, and connections that it must not."""

    src: Selector
    accept: tuple[PortTarget, ...]
    deny: tuple[PortTarget, ...]
    line: int = field(default=0, compare=False)
    """As `Grant.line`."""


@dataclass(frozen=True, slots=True)
class PolicyDocument:
    """A policy. It allows the connections that at least one grant allows, and no others."""

    grants: tuple[Grant, ...]
    tests: tuple[Expectation, ...] = ()


NO_POLICY: Final = PolicyDocument(
    (
        Grant(
            (Selector(SelectorKind.ANY),),
            (Selector(SelectorKind.ANY), Selector(SelectorKind.INTERNET)),
            (Ports(None),),
        ),
    )
)
"""Allows what a network without a policy allows: everything."""
CLOSED_POLICY: Final = PolicyDocument(())
"""Allows nothing."""


def decode_policy(content: bytes) -> str:
    """Return the text of a policy's file; raises `TextError`."""
    if len(content) > MAX_POLICY:
        raise TextError(_TOO_LONG, 1, 1)
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        before = content[: error.start].decode()
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        raise TextError("not UTF-8", line, column) from None


def parse_policy(text: str) -> PolicyDocument:
    """Parse a policy; raises `TextError`."""
    if len(text.encode("utf-8", "surrogatepass")) > MAX_POLICY:
        raise TextError(_TOO_LONG, 1, 1)
    document = HujsonText(text)
    found = _Reader(document.refuse).policy(document.value)
    grants, tests = document.lines("grants"), document.lines("tests") if found.tests else ()
    return PolicyDocument(
        tuple(replace(grant, line=line) for grant, line in zip(found.grants, grants, strict=True)),
        tuple(replace(test, line=line) for test, line in zip(found.tests, tests, strict=True)),
    )


class _Reader:
    """Reads values, and refuses them with their position."""

    def __init__(self, refuse: Callable[[Path, str], NoReturn]) -> None:
        self._refuse = refuse

    def policy(self, value: Any) -> PolicyDocument:  # noqa: ANN401 - any JSON value
        """Read the document."""
        found = self._object(value, (), required={"grants"}, optional={"tests"})
        grants = self._list(found["grants"], ("grants",), self._grant)
        return PolicyDocument(grants, self._list(found.get("tests", []), ("tests",), self._test))

    def _grant(self, value: Any, path: Path) -> Grant:  # noqa: ANN401
        found = self._object(value, path, required={"src", "dst", "ip"})
        return Grant(
            self._some(found["src"], (*path, "src"), self._source),
            self._some(found["dst"], (*path, "dst"), self._selector),
            self._some(found["ip"], (*path, "ip"), self._ports),
        )

    def _test(self, value: Any, path: Path) -> Expectation:  # noqa: ANN401
        found = self._object(value, path, required={"src"}, optional={"accept", "deny"})
        accept = self._list(found.get("accept", []), (*path, "accept"), self._target)
        deny = self._list(found.get("deny", []), (*path, "deny"), self._target)
        if not accept and not deny:
            self._refuse(path, "the test has neither accept nor deny")
        src = self._member(found["src"], (*path, "src"))
        return Expectation(src, accept, deny)

    def _source(self, value: Any, path: Path) -> Selector:  # noqa: ANN401
        found = self._selector(value, path)
        if found.kind in {SelectorKind.SELF, SelectorKind.INTERNET}:
            self._refuse(path, f"{found} selects destinations only")
        return found

    def _member(self, value: Any, path: Path) -> Selector:  # noqa: ANN401
        found = self._selector(value, path)
        if found.kind not in {SelectorKind.TAG, SelectorKind.NODE, SelectorKind.OWNER}:
            self._refuse(path, "expected tag:NAME, node:ID or owner:0x…")
        return found

    def _target(self, value: Any, path: Path) -> PortTarget:  # noqa: ANN401
        selector, _, rest = self._string(value, path).rpartition(":")
        selector, _, protocol = selector.rpartition(":")
        try:
            found = PortTarget(Selector.parse(selector), Ports.parse(f"{protocol}:{rest}"))
        except FormatError:
            self._refuse(path, "expected SELECTOR:PROTOCOL:PORT, such as node:db:tcp:5432")
        if found.dst.kind not in {SelectorKind.TAG, SelectorKind.NODE, SelectorKind.OWNER}:
            self._refuse(path, "expected a destination tag:NAME, node:ID or owner:0x…")
        if found.ports.first != found.ports.last and (found.ports.first, found.ports.last) != (0, 65535):
            self._refuse(path, "a test names one port, or * for any protocol's ports")
        return found

    def _selector(self, value: Any, path: Path) -> Selector:  # noqa: ANN401
        return self._parsed(value, path, Selector.parse)

    def _ports(self, value: Any, path: Path) -> Ports:  # noqa: ANN401
        return self._parsed(value, path, Ports.parse)

    def _parsed(self, value: Any, path: Path, parser: Callable[[str], _T]) -> _T:  # noqa: ANN401
        text = self._string(value, path)
        try:
            return parser(text)
        except FormatError as error:
            self._refuse(path, str(error))

    def _string(self, value: Any, path: Path) -> str:  # noqa: ANN401
        if not isinstance(value, str):
            self._refuse(path, "expected a string")
        return value

    def _list(self, value: Any, path: Path, read: Callable[[Any, Path], _T]) -> tuple[_T, ...]:  # noqa: ANN401
        if not isinstance(value, list):
            self._refuse(path, "expected a list")
        return tuple(read(each, (*path, index)) for index, each in enumerate(value))

    def _some(self, value: Any, path: Path, read: Callable[[Any, Path], _T]) -> tuple[_T, ...]:  # noqa: ANN401
        found = self._list(value, path, read)
        if not found:
            self._refuse(path, "the list is empty")
        return found

    def _object(
        self,
        value: Any,  # noqa: ANN401
        path: Path,
        *,
        required: set[str],
        optional: set[str] = frozenset(),  # type: ignore[assignment]
    ) -> dict[str, Any]:
        if not isinstance(value, dict):
            self._refuse(path, "expected an object")
        if isinstance(value, Ambiguous):
            self._refuse(path, f"the key {value.key!a} occurs twice")
        for key in value:
            if key not in required | optional:
                expected = ", ".join(sorted(required | optional))
                self._refuse((*path, key), f"the key {key!a} is unknown (expected {expected})")
        if missing := sorted(required - set(value)):
            self._refuse(path, f"the key '{missing[0]}' is missing")
        return value
