"""The compiled registry contract, as package data: deploying needs no compiler."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Any

from dstack_vpn.adapters.contracts.abi import SELECTOR


@dataclass(frozen=True, slots=True)
class ErrorAbi:
    """A named custom error and the ABI types of its arguments."""

    name: str
    types: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Artifact:
    """The output of `contracts/build.mjs` for the registry contract."""

    abi: tuple[Mapping[str, Any], ...]
    """The contract's JSON ABI."""
    bytecode: bytes
    """Creation bytecode, without constructor arguments."""
    errors: Mapping[bytes, ErrorAbi]
    """The contract's named errors by selector."""
    functions: Mapping[str, bytes]
    """Selectors by canonical signature."""
    events: Mapping[str, str]
    """Topics by canonical signature."""


def _unhex(text: str) -> bytes:
    return bytes.fromhex(text.removeprefix("0x"))


def _errors(signatures: Mapping[str, str]) -> dict[bytes, ErrorAbi]:
    errors = {}
    for signature, selector in signatures.items():
        name, _, arguments = signature.rstrip(")").partition("(")
        errors[_unhex(selector)[:SELECTOR]] = ErrorAbi(name, tuple(arguments.split(",") if arguments else ()))
    return errors


@cache
def load_artifact() -> Artifact:
    """Read the artifact. It takes about 1 ms, once; only deploying and naming reverts need it."""
    source = resources.files("dstack_vpn.adapters.contracts") / "artifacts" / "AccessRegistry.json"
    raw = json.loads(source.read_text("utf-8"))
    return Artifact(
        abi=tuple(raw["abi"]),
        bytecode=_unhex(raw["bytecode"]),
        errors=MappingProxyType(_errors(raw["errors"])),
        functions=MappingProxyType({name: _unhex(value) for name, value in raw["functions"].items()}),
        events=MappingProxyType(raw["events"]),
    )
