"""Decoders that take more than a call to feed: contract events and state, relay frames, settings, TOML."""

import contextlib
import json
import tempfile
from pathlib import Path
from typing import Final

from dstack_vpn.adapters.chain.fields import parse_log
from dstack_vpn.adapters.contracts import ABIS
from dstack_vpn.config import load
from dstack_vpn.core import framing
from dstack_vpn.core.model import BlockRef
from dstack_vpn.errors import FormatError

BLOCK: Final = BlockRef(7, "0x" + "22" * 32, "0x" + "33" * 32, 1_700_000_000)


def contract_log(data: bytes) -> object:
    """The bytes stand for a log in JSON, as an endpoint sends it."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    for abi in ABIS.values():
        with contextlib.suppress(FormatError):
            abi.decode(parse_log(value))
    return None


def contract_state(data: bytes) -> object:
    for abi in ABIS.values():
        with contextlib.suppress(FormatError):
            abi.parse_token(1, [data] * len(abi.token_calls(1)), BLOCK)
        with contextlib.suppress(FormatError):
            abi.parse_page(data, BLOCK)
    return None


def relay_frames(data: bytes) -> object:
    runs, taken = framing.scan(bytearray(data), len(data), 1000)
    assert 0 <= taken <= len(data)
    for start, size, count, tail in runs:
        assert start + count * (size + framing.HEADER) - framing.HEADER + max(tail, 0) <= len(data)
    return framing.foreign_protocol(data[:4])


def settings(data: bytes) -> object:
    """The bytes stand for ``NAME=value`` lines of an environment."""
    lines = (line.partition("=") for line in data.decode("utf-8", "replace").splitlines())
    return load({}, {name: value for name, equals, value in lines if equals and name != "CONFIG_FILE"})


def toml_file(data: bytes) -> object:
    with tempfile.NamedTemporaryFile(suffix=".toml") as file:
        file.write(data)
        file.flush()
        return load({}, {}, Path(file.name))
