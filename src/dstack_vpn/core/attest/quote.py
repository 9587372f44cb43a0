"""The content of a node's quote, which binds a WireGuard key to a measured machine.

The 64 bytes of report data in a quote are a hash over the public key and a domain name of our own,
so that a quote made for another purpose is not accepted. dstack extends RTMR 3 with events about
the application that it launched; its event log is accepted only if it replays to the quote's
registers.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from dstack_vpn.core.wireguard.keys import PublicKey
from dstack_vpn.errors import FormatError

DOMAIN: Final = b"dstack-vpn wireguard public key v1\x00"
REGISTERS: Final = 4
_DIGEST: Final = 48
_RUNTIME: Final = 3
"""The register that dstack's own events extend: RTMR 3."""
_EVENTS: Final = 10_000


def report_data(key: PublicKey) -> bytes:
    """Return the report data for a public key: SHA-512 over `DOMAIN` and its 32 bytes."""
    return hashlib.sha512(DOMAIN + key).digest()


@dataclass(frozen=True, slots=True)
class Measured:
    """The result of a replayed event log."""

    registers: tuple[bytes, ...]
    """RTMR 0 to 3, as computed from the log."""
    events: tuple[tuple[str, str], ...]
    """dstack's own events: names with payloads in hexadecimal."""

    def value(self, name: str) -> str | None:
        """Return the payload of the event of that name; None unless there is exactly one."""
        found = [payload for event, payload in self.events if event == name]
        return found[0] if len(found) == 1 else None


def replay(event_log: str) -> Measured:
    """Extend the registers by the log's digests; raises `FormatError`.

    The digest of a dstack event is computed from its name and payload (SHA-384 over type, ``:``,
    name, ``:`` and payload), so the register confirms these as well.
    """
    registers = [bytes(_DIGEST)] * REGISTERS
    named: list[tuple[str, str]] = []
    for entry in _entries(event_log):
        try:
            register, digest = int(entry["imr"]), bytes.fromhex(entry["digest"])
            kind, name, payload = int(entry["event_type"]), str(entry["event"]), str(entry["event_payload"])
            raw = bytes.fromhex(payload) if register == _RUNTIME else b""
            named_as = name.encode()
        except (KeyError, TypeError, ValueError, OverflowError) as error:  # the last: a number such as 1e999
            raise FormatError("event log: an entry is not of dstack's form") from error
        if not 0 <= register < REGISTERS or not 0 <= kind < 2**32:
            raise FormatError("event log: there is no such register or type")
        if register == _RUNTIME:
            made = hashlib.sha384(kind.to_bytes(4, "little") + b":" + named_as + b":" + raw).digest()
            if digest not in {made, b""}:
                raise FormatError("event log: a digest is not that of its event")
            digest = made
            named.append((name, payload.lower()))
        registers[register] = hashlib.sha384(registers[register] + digest.ljust(_DIGEST, b"\0")).digest()
    return Measured(tuple(registers), tuple(named))


def _entries(event_log: str) -> Sequence[dict[str, Any]]:
    try:
        found = json.loads(event_log)
    except (ValueError, RecursionError) as error:
        raise FormatError("event log: expected JSON") from error
    if not isinstance(found, list) or len(found) > _EVENTS or not all(isinstance(x, dict) for x in found):
        raise FormatError(f"event log: expected a list of up to {_EVENTS} objects")
    return found
