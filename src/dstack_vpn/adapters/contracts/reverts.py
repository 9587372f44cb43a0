"""Readable reasons of reverts, such as ``NodeIdTaken("web", 1)``.

Text arguments may come from any account, so they are quoted, escaped and truncated.
"""

import json
from collections.abc import Callable, Sequence
from typing import Final

from dstack_vpn.adapters.contracts import signatures
from dstack_vpn.adapters.contracts.abi import SELECTOR, WORD, Reader
from dstack_vpn.adapters.contracts.artifact import ErrorAbi, load_artifact
from dstack_vpn.adapters.redact import WINDOW
from dstack_vpn.errors import FormatError

_LOOKED_AT: Final = 4 * WINDOW
"""The number of bytes of a text argument that are decoded."""
_MAX_TEXT: Final = 100
"""The number of characters of a text argument that are shown."""

# The Solidity documentation, "Panic via assert and Error via require".
_PANICS: Final = {
    0x01: "assertion failed",
    0x11: "arithmetic overflow",
    0x12: "division by zero",
    0x21: "value out of an enum's range",
    0x22: "corrupt storage",
    0x31: "pop from an empty array",
    0x32: "index out of bounds",
    0x41: "out of memory",
    0x51: "call of an uninitialized function",
}


_V1_ERRORS: Final = {
    bytes.fromhex("03ad8012"): ErrorAbi("PublicKeyTaken", ("string", "uint256")),
}
"""The errors of the first version of AccessRegistry that the current one does not have."""


def describe_revert(data: bytes, clean: Callable[[str], str] = str) -> str:
    """Return the reason in a revert's data; raises nothing for any data.

    ``clean`` removes secrets from a text argument before it is truncated.
    """
    selector, arguments = data[:SELECTOR], data[SELECTOR:]
    if not data:
        return "reverted without a reason"
    try:
        return _describe(selector, arguments, clean)
    except FormatError:
        return f"reverted with an error that can't be read (0x{selector.hex()})"


def _describe(selector: bytes, arguments: bytes, clean: Callable[[str], str]) -> str:
    if selector == signatures.ERROR:
        return f"reverted: {_text(Reader(arguments).blob(0, 0), clean)}"
    if selector == signatures.PANIC:
        code = Reader(arguments).uint(0)
        return f"panic: {_PANICS.get(code, f'code {code}')}"
    error = load_artifact().errors.get(selector) or _V1_ERRORS.get(selector)
    if error is None:
        return f"reverted with an unknown error (0x{selector.hex()})"
    return f"{error.name}({', '.join(_arguments(error.types, arguments, clean))})"


def _arguments(types: Sequence[str], data: bytes, clean: Callable[[str], str]) -> list[str]:
    reader = Reader(data)
    return [_argument(reader, kind, WORD * i, clean) for i, kind in enumerate(types)]


def _argument(reader: Reader, kind: str, at: int, clean: Callable[[str], str]) -> str:
    match kind:
        case "string":
            return _text(reader.blob(0, at), clean)
        case "address":
            return reader.address(at)
        case "bytes32":
            return f"0x{reader.uint(at):064x}"
        case _:  # all other arguments are integers, as a test checks
            return str(reader.uint(at))


def _text(raw: bytes, clean: Callable[[str], str]) -> str:
    text = clean(raw[:_LOOKED_AT].decode("utf-8", "replace"))
    return json.dumps(text if len(text) <= _MAX_TEXT else text[: _MAX_TEXT - 1] + "…")
