"""The audit log's chain: each record carries a hash over itself and the hash before it.

    hash(n) = SHA-256( hash(n-1) ‖ canonical JSON of [number, at, kind, body] )

So a record that is altered, left out or slipped in breaks every hash after it. What the chain can't show by
itself is that its end was cut off, or all of it written anew: for that, keep the newest hash elsewhere.
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
"""What the first record follows."""


class Anchor(NamedTuple):
    """A place in the chain: a record's number and its hash, in lower-case hexadecimal digits."""

    number: int
    hash: str

    def __str__(self) -> str:
        return f"{self.number}:{self.hash}"


ORIGIN: Final = Anchor(0, BEGINNING)


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """Something to be recorded: when it was, in Unix seconds, what kind of thing it is, and its details."""

    at: float
    kind: str
    body: Body


@dataclass(frozen=True, slots=True)
class ChainedRecord:
    """A note in its place."""

    number: int
    note: AuditRecord
    hash: str

    @property
    def anchor(self) -> Anchor:
        """Its place."""
        return Anchor(self.number, self.hash)


def seal(after: Anchor, note: AuditRecord) -> ChainedRecord:
    """The record that follows there."""
    number = after.number + 1
    text = json.dumps(
        [number, float(note.at), note.kind, dict(note.body)], sort_keys=True, separators=(",", ":")
    )
    digest = hashlib.sha256(bytes.fromhex(after.hash) + text.encode())
    return ChainedRecord(number, note, digest.hexdigest())


def check(
    after: Anchor, records: Iterable[ChainedRecord], gaps: Mapping[int, Anchor] = MappingProxyType({})
) -> tuple[Anchor, str | None]:
    """Follow the chain from an anchor: the last place that is sound, and the problem after it, if any.

    ``gaps`` are runs of records that were cut: by the number of the first, the place of the last.
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
