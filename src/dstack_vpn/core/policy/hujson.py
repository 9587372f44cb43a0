"""JSON with comments and trailing commas, as in Tailscale's policy files (HuJSON).

Comments and trailing commas are overwritten with blanks, so that every position stays that of the
author's text. The json module parses the result.
"""

import json
import re
from collections.abc import Iterable
from typing import Any, Final, NoReturn, TypeAlias

from dstack_vpn.errors import FormatError

Path: TypeAlias = tuple[str | int, ...]
"""The keys and indexes that lead from the document to a value in it."""

_STRING: Final = r'"(?:[^"\\\n]|\\.)*"?'
_COMMENTS: Final = re.compile(rf"(?P<kept>{_STRING})|//[^\n]*|/\*.*?(?:\*/|\Z)", re.DOTALL)
_COMMAS: Final = re.compile(rf"(?P<kept>{_STRING}|[\[{{:,]\s*,)|,(?=\s*[\]}}])", re.DOTALL)
_BLANKS: Final = re.compile(r"\s*")
_TOO_DEEP: Final = "the values are nested too deeply"


class TextError(FormatError):
    """A text is refused. ``line`` and ``column`` begin at 1."""

    def __init__(self, problem: str, line: int, column: int) -> None:
        super().__init__(f"line {line}, column {column}: {problem}")
        self.problem, self.line, self.column = problem, line, column


class Number:
    """Stands for any number, ``NaN`` and the infinities. A policy has none."""


class Ambiguous(dict[str, Any]):
    """An object in which ``key`` occurs twice."""

    def __init__(self, key: str) -> None:
        super().__init__()
        self.key = key


class HujsonText:
    """A text with its value."""

    def __init__(self, text: str) -> None:
        """Parse a text; raises `TextError`."""
        self._text, self._plain = text, _COMMAS.sub(_blanked, _COMMENTS.sub(_blanked, text))
        self.value = self._parsed()
        """Any JSON value. A number is a `Number`, an object with a repeated key an `Ambiguous`."""

    def _parsed(self) -> Any:  # noqa: ANN401 - any JSON value
        try:
            return json.loads(
                self._plain,
                object_pairs_hook=_object,
                parse_int=_number,
                parse_float=_number,
                parse_constant=_number,
            )
        except json.JSONDecodeError as error:
            raise TextError(f"not JSON: {error.msg}", error.lineno, error.colno) from error
        except RecursionError:
            raise TextError(_TOO_DEEP, 1, 1) from None

    def refuse(self, path: Path, problem: str) -> NoReturn:
        """Raise `TextError` for the value at a path."""
        try:
            at = _position(self._plain, path)
        except RecursionError:  # the parser was called with a few levels more to spare
            raise TextError(_TOO_DEEP, 1, 1) from None
        line = self._text.count("\n", 0, at) + 1
        raise TextError(problem, line, at - self._text.rfind("\n", 0, at))

    def lines(self, key: str) -> tuple[int, ...]:
        """Return the lines on which the values of a list begin, which the document has by this key.

        Raises `TextError`.
        """
        decoder, found = json.JSONDecoder(), list[int]()
        try:
            at = _after_blanks(self._plain, _position(self._plain, (key,)) + 1)
            while self._plain[at] != "]":
                found.append(self._text.count("\n", 0, at) + 1)
                _, end = decoder.raw_decode(self._plain, at)
                at = _after_blanks(self._plain, end)
                if self._plain[at] == ",":
                    at = _after_blanks(self._plain, at + 1)
        except RecursionError:
            raise TextError(_TOO_DEEP, 1, 1) from None
        return tuple(found)


def _blanked(found: re.Match[str]) -> str:
    return found[0] if found["kept"] is not None else re.sub(r"[^\n]", " ", found[0])


def _number(_: str) -> Number:
    return Number()


def _object(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            return Ambiguous(key)
        found[key] = value
    return found


def _position(plain: str, path: Path) -> int:
    """Return the index of the value at a path."""
    decoder = json.JSONDecoder()
    at = _after_blanks(plain, 0)
    for step in path:
        at, index = _after_blanks(plain, at + 1), 0  # behind the bracket
        while True:
            key: object = index
            if isinstance(step, str):
                key, end = decoder.raw_decode(plain, at)
                at = _after_blanks(plain, _after_blanks(plain, end) + 1)  # behind the colon
            if key == step:
                break
            _, end = decoder.raw_decode(plain, at)
            at, index = _after_blanks(plain, _after_blanks(plain, end) + 1), index + 1  # behind the comma
    return at


def _after_blanks(plain: str, at: int) -> int:
    found = _BLANKS.match(plain, at)
    assert found is not None
    return found.end()
