"""Retention of the audit log: the records to cut from a log that is too large, and their evidence.

A holder can cause any number of records: endpoint updates, key updates, and the changes of peers
that follow from them. These must not displace the node's own decisions. So records of passing kinds
are cut first, with all but the newest `EACH_TOKEN` decisions about each token. The oldest of all
records are cut only if the rest alone takes more than `LASTING_PART` of the allowed size.

    head    the oldest records, up to a number: by age, or if lasting records alone are too many
    thin    passing records between others: by size

Each cut appends a record of kind `CUT` to the same chain. It states the number of records that were
cut, the highest record number among them, and the cause, age or size. For a head it has the
position of the last record that was cut; for a thinning, a digest over the runs. So a gap without a
matching record of a cut is invalid.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from dstack_vpn.core.observe.audit_chain import Anchor, Body, ChainedRecord

CUT: Final = "audit.cut"
EACH_TOKEN: Final = 500
"""The number of decisions about one token that are kept like our own."""
LASTING_PART: Final = 0.75
_LASTING: Final = ("access.", "admin.", "audit.", "brake.", "config.", "key.", "node.")
"""The prefixes of the kinds that are this node's own decisions."""


class Kept(NamedTuple):
    """A record in the log."""

    number: int
    kind: str
    token: int | None
    """The token of an ``access.decided``."""
    size: int
    """Bytes."""


class RecordRun(NamedTuple):
    """A run of consecutive records that were cut."""

    first: int
    last: Anchor
    cut: int
    """The number of the record of the cut."""


class TooMuch(NamedTuple):
    """The records to cut by size."""

    head: int
    """All records up to this number are cut; 0: none."""
    thin: tuple[int, ...]
    """The numbers of further records to cut."""


def is_lasting(kind: str) -> bool:
    """Return whether records of that kind are this node's own decisions."""
    return kind.startswith(_LASTING)


def too_much(records: Sequence[Kept], largest: int) -> TooMuch:
    """Choose the records to cut until the rest takes at most ``largest`` bytes."""
    over = sum(record.size for record in records) - largest
    if over <= 0:
        return TooMuch(0, ())
    passing = {record.number for record in _passing(records)}
    head, over = _head(records, passing, largest, over)
    thin = []
    for record in records[:-1]:  # the end of the chain stays
        if over <= 0:
            break
        if record.number > head and record.number in passing:
            thin.append(record.number)
            over -= record.size
    return TooMuch(head, tuple(thin))


def _passing(records: Sequence[Kept]) -> Iterator[Kept]:
    about: Counter[int] = Counter()
    for record in reversed(records):
        if record.token is not None:
            about[record.token] += 1
        if not is_lasting(record.kind) or (record.token is not None and about[record.token] > EACH_TOKEN):
            yield record


def _head(records: Sequence[Kept], passing: set[int], largest: int, over: int) -> tuple[int, int]:
    """Return the number up to which all records are cut, and the bytes still over the limit."""
    excess = sum(r.size for r in records if r.number not in passing) - int(LASTING_PART * largest)
    head = 0
    for record in records:
        if excess <= 0:
            break
        head, over = record.number, over - record.size
        excess -= 0 if record.number in passing else record.size
    return head, over


def runs(gone: Iterable[Anchor], cut: int) -> Iterator[RecordRun]:
    """Group the positions of records to cut, in ascending order, into runs."""
    run: RecordRun | None = None
    for place in gone:
        if run is not None and place.number == run.last.number + 1:
            run = RecordRun(run.first, place, cut)
            continue
        if run is not None:
            yield run
        run = RecordRun(place.number, place, cut)
    if run is not None:
        yield run


def of_head(by: str, records: int, last: Anchor, since: float) -> Body:
    """Return the body of the record of a head's cut.

    ``since`` is the time of the oldest record that was cut, in Unix seconds.
    """
    return {"by": by, "records": records, "through": last.number, "hash": last.hash, "from": since}


def of_thinning(gone: Sequence[Kept], thinned: Iterable[RecordRun]) -> Body:
    """Return the body of the record of a thinning."""
    kinds = Counter(record.kind for record in gone)
    named = ", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items()))
    return {
        "by": "size",
        "records": len(gone),
        "through": gone[-1].number,
        "kinds": named,
        "digest": digest(thinned),
    }


def digest(thinned: Iterable[RecordRun]) -> str:
    """Return the digest over all runs of one cut."""
    lines = (f"{run.first} {run.last}" for run in sorted(thinned))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def unexplained(
    start: Anchor, thinned: Sequence[RecordRun], cut_records: Sequence[ChainedRecord]
) -> str | None:
    """Return the first gap that no record of a cut accounts for, or None.

    ``start`` is the position before the log's first record. ``cut_records`` have the kind `CUT`.
    """
    heads = [record for record in cut_records if "hash" in record.note.body]
    if start.number and not any(_states(record, start) for record in heads):
        return f"records up to {start.number} are missing, and no record of a cut names them"
    cuts: Mapping[int, ChainedRecord] = {record.number: record for record in cut_records}
    by_cut: dict[int, list[RecordRun]] = {}
    for run in thinned:
        by_cut.setdefault(run.cut, []).append(run)
    for number in sorted({*by_cut, *(n for n, record in cuts.items() if "digest" in record.note.body)}):
        found = by_cut.get(number, [])
        if number not in cuts or cuts[number].note.body.get("digest") != digest(found):
            where = f"from {min(found).first} on " if found else ""
            return f"the records that are missing {where}are not those that cut {number} names"
    return None


def _states(record: ChainedRecord, start: Anchor) -> bool:
    body = record.note.body
    return (body.get("through"), body.get("hash")) == tuple(start)
