"""Decoders that need more than one call: devices' replies, settings, files, attestations."""

import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TypeVar

from tests.fuzz.cursor import Cursor
from tests.quotes import rooted

from dstack_vpn.adapters.attest import collateral
from dstack_vpn.adapters.attest.verify import Judgement, verify
from dstack_vpn.adapters.device import netlink, uapi, wgnetlink
from dstack_vpn.adapters.store import records
from dstack_vpn.config import load, load_relay
from dstack_vpn.core.attest.measurements import Expected, Verdict
from dstack_vpn.core.attest.quote import replay
from dstack_vpn.core.wireguard import config_file as wgconf
from dstack_vpn.core.wireguard.keys import PublicKey
from dstack_vpn.errors import DeviceError

_T = TypeVar("_T")
_NOW: Final = datetime(2026, 11, 24, tzinfo=UTC)
_ROOT: Final = rooted()
_KEY: Final = PublicKey(bytes(range(32)))


# -- devices ---------------------------------------------------------------------------------------


def uapi_answer(data: bytes) -> object:
    """Parse a reply to ``get=1``, whole and in two pieces; the first two bytes are the cut."""
    cut, answer = int.from_bytes(data[:2], "big"), data[2:]

    def read(*pieces: bytes) -> object:
        parser = uapi.GetParser()
        for piece in pieces:
            parser.feed(piece)
        return parser.state()

    whole, parts = _outcome(lambda: read(answer)), _outcome(lambda: read(answer[:cut], answer[cut:]))
    assert isinstance(whole, DeviceError) or whole == parts
    return _value(whole)


def _outcome(work: Callable[[], _T]) -> _T | DeviceError:
    try:
        return work()
    except DeviceError as error:
        return error


def _value(outcome: _T | DeviceError) -> _T:
    if isinstance(outcome, DeviceError):
        raise outcome
    return outcome


def netlink_answer(data: bytes) -> object:
    """Parse the kernel's messages: acknowledgements, deleted links, a dump in several parts."""
    parser, found = wgnetlink.DumpParser(), 0
    for message in netlink.parse_messages(data):
        if message.type in {netlink.NLMSG_ERROR, netlink.NLMSG_DONE}:
            netlink.check_error(message.payload)
        elif message.type != netlink.RTM_DELLINK:
            parser.feed(message.payload)
            found += 1
    return parser.state() if found else list(netlink.interface_changes(data)) or None


def device_dump(data: bytes) -> object:
    """Parse one message of a dump."""
    parser = wgnetlink.DumpParser()
    parser.feed(memoryview(data))
    state = parser.state()
    return state if state.peers else None


# -- settings --------------------------------------------------------------------------------------


def settings(data: bytes) -> object:
    """Load a node's settings from ``NAME=value`` lines."""
    return load({}, _environment(data))


def relay_settings(data: bytes) -> object:
    """Load a relay's settings from ``NAME=value`` lines."""
    return load_relay({}, _environment(data))


def _environment(data: bytes) -> dict[str, str]:
    """Return the variables; ``@SECRET`` is the path of a file with the value of ``SECRET``."""
    lines = (line.partition("=") for line in data.decode("utf-8", "surrogateescape").split("\n"))
    found = {name: value for name, equals, value in lines if equals and name != "CONFIG_FILE"}
    if "SECRET" in found:
        _write(_SECRET, found["SECRET"].encode("utf-8", "surrogateescape"))
    return {name: value.replace("@SECRET", _path(_SECRET)) for name, value in found.items()}


def _memory(name: str) -> int:
    """Return the descriptor of a file in memory that only its owner can read."""
    descriptor = os.memfd_create(name)
    os.fchmod(descriptor, 0o600)
    return descriptor


def _write(descriptor: int, data: bytes) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, data, 0)


def _path(descriptor: int) -> str:
    return f"/proc/self/fd/{descriptor}"


_FILE: Final = _memory("config.toml")
_SECRET: Final = _memory("secret")


def toml_file(data: bytes) -> object:
    """Load a configuration file in memory."""
    _write(_FILE, data)
    return load({}, {}, Path(_path(_FILE)))


# -- files -----------------------------------------------------------------------------------------


def wg_config(data: bytes) -> object:
    """Parse a wg-quick file; its rendered text must parse to the same text."""
    config = wgconf.parse(data.decode("utf-8", "replace"))
    text = wgconf.render(config)
    assert wgconf.render(wgconf.parse(text)) == text
    return config


def record(data: bytes) -> object:
    """Load a row of the store: a node, the state of a contract, or an event, by the first byte."""
    text = data[1:].decode("utf-8", "replace")
    if data[:1] == b"c":
        return records.load_contract(text)
    return records.load_node(text) if data[:1] == b"n" else records.load_event(text)


# -- attestation -----------------------------------------------------------------------------------


def event_log(data: bytes) -> object:
    """Replay dstack's event log."""
    return replay(data.decode("utf-8", "replace"))


def attestation(data: bytes) -> object:
    """Verify collateral, a quote and its event log by a known root; None if it is invalid.

    The root is fixed, because dcap-qvl aborts at some roots that are not certificates. In the
    program, the root never comes from outside.
    """
    cursor = Cursor(data)
    intel, quote = cursor.blob(), cursor.blob()
    log = cursor.rest().decode("utf-8", "replace")
    by = Judgement(collateral.parse(intel.decode("utf-8", "replace")), _NOW.timestamp(), root=_ROOT.anchor)
    finding = verify(quote, log, _KEY, expected=Expected({}), by=by)
    return None if finding.verdict is Verdict.INVALID else finding
