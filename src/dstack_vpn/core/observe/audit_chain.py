"""The audit log's chain: each record carries a hash over itself and the hash before it.

    hash(n) = SHA-256( hash(n-1) ‖ canonical JSON of [number, at, kind, body] )

So a record that is altered, removed or inserted breaks every hash after it. The chain itself can't
show that its end was removed, or that all of it was rewritten: to detect that, keep the newest hash
elsewhere.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, NamedTuple, TypeAlias

Scalar: TypeAlias = str | int | float | bool | None
Body: TypeAlias = Mapping[str, Scalar]

BEGINNING: Final = "0" * 64
"""The hash before the first record."""


class Anchor(NamedTuple):
    """A position in the chain: a record's number and its hash, in lower-case hexadecimal digits."""

    number: int
    hash: str

    def __str__(self) -> str:
        return f"{self.number}:{self.hash}"


ORIGIN: Final = Anchor(0, BEGINNING)


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """A record before it is chained: its time in Unix seconds, its kind, and its details."""

    at: float
    kind: str
    body: Body


@dataclass(frozen=True, slots=True)
class ChainedRecord:
    """A record at its position in the chain."""

    number: int
    note: AuditRecord
    hash: str

    @property
    def anchor(self) -> Anchor:
        """Return the record's position."""
        return Anchor(self.number, self.hash)


def seal(after: Anchor, note: AuditRecord) -> ChainedRecord:
    """Return the record chained after a position."""
    number = after.number + 1
    text = json.dumps(
        [number, float(note.at), note.kind, dict(note.body)], sort_keys=True, separators=(",", ":")
    )
    digest = hashlib.sha256(bytes.fromhex(after.hash) + text.encode())
    return ChainedRecord(number, note, digest.hexdigest())


def check(
    after: Anchor, records: Iterable[ChainedRecord], gaps: Mapping[int, Anchor] = MappingProxyType({})
) -> tuple[Anchor, str | None]:
    """Verify the chain from an anchor; returns the last valid position, and the problem after it.

    The problem is None if all is valid. ``gaps`` are runs of records that were cut: by the number
    of the first, the position of the last.
    """
    for record in records:
        while after.number < record.number - 1 and (last := gaps.get(after.number + 1)) is not None:
            if last.number <= after.number:
                return after, f"the gap after record {after.number} is damaged"
            after = last
        if record.number != after.number + 1:
            return after, f"record {after.number + 1} is missing: {record.number} follows {after.number}"
        if seal(after, record.note).hash != record.hash:
            return after, f"record {record.number} is not what was written"
        after = record.anchor
    return after, None
