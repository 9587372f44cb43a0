"""Which records leave an audit log that is too large, and how it shows that they are gone.

A holder can cause any number of records: endpoint updates, key updates, and the changes of peers that follow
from them. The node's own decisions must not be pushed out by these. So records of passing kinds go first, and
of the decisions about one token all but the newest `EACH_TOKEN`. Only if the rest alone takes more than
`LASTING_PART` of the room, the oldest of all go.

    head    the oldest records, up to a number: by age, or because lasting records alone are too many
    thin    passing records between others: by size

Each cut appends a record of kind `CUT` to the same chain. It states how many records went, up to which
number, and whether by age or by size. Of a head it has the place of the last record that went; of a thinning,
a digest over the runs that went. So a gap that no record of a cut accounts for is not sound.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from dstack_vpn.core.observe.audit_chain import Anchor, Body, ChainedRecord

CUT: Final = "audit.cut"
EACH_TOKEN: Final = 500
"""The decisions about one token that are kept like our own."""
LASTING_PART: Final = 0.75
_LASTING: Final = ("access.", "admin.", "audit.", "brake.", "config.", "key.", "node.")
"""The beginnings of the kinds that are this node's own decisions."""


class Kept(NamedTuple):
    """A record that is there, oldest first."""

    number: int
    kind: str
    token: int | None
    """The token that an ``access.decided`` is about."""
    size: int
    """Bytes."""


class RecordRun(NamedTuple):
    """Records in a row that are gone."""

    first: int
    last: Anchor
    cut: int
    """The number of the record that tells of it."""


class TooMuch(NamedTuple):
    """The records that have to go by size."""

    head: int
    """All up to this number; 0: none."""
    thin: tuple[int, ...]
    """And these."""


def is_lasting(kind: str) -> bool:
    """Whether records of that kind are this node's own decisions."""
    return kind.startswith(_LASTING)


def too_much(records: Sequence[Kept], largest: int) -> TooMuch:
    """Choose what goes until the rest takes at most ``largest`` bytes."""
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
    """The number up to which all records go, and by how much the rest is too large still."""
    excess = sum(r.size for r in records if r.number not in passing) - int(LASTING_PART * largest)
    head = 0
    for record in records:
        if excess <= 0:
            break
        head, over = record.number, over - record.size
        excess -= 0 if record.number in passing else record.size
    return head, over


def runs(gone: Iterable[Anchor], cut: int) -> Iterator[RecordRun]:
    """Group the places of records that go, in rising order, into runs."""
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
    """The body of the record that tells of a head's cut; ``since`` is the time of the oldest that went."""
    return {"by": by, "records": records, "through": last.number, "hash": last.hash, "from": since}


def of_thinning(gone: Sequence[Kept], thinned: Iterable[RecordRun]) -> Body:
    """The body of the record that tells of a thinning."""
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
    """Stand for all runs of one cut."""
    lines = (f"{run.first} {run.last}" for run in sorted(thinned))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def unexplained(start: Anchor, thinned: Sequence[RecordRun], told: Sequence[ChainedRecord]) -> str | None:
    """Return the first gap that no record of a cut accounts for, or None.

    ``start`` is the place that the log begins after; ``told`` are the records of kind `CUT`.
    """
    heads = [record for record in told if "hash" in record.note.body]
    if start.number and not any(_tells_of(record, start) for record in heads):
        return f"records up to {start.number} are missing, and no record of a cut says so"
    cuts: Mapping[int, ChainedRecord] = {record.number: record for record in told}
    by_cut: dict[int, list[RecordRun]] = {}
    for run in thinned:
        by_cut.setdefault(run.cut, []).append(run)
    for number in sorted({*by_cut, *(n for n, record in cuts.items() if "digest" in record.note.body)}):
        found = by_cut.get(number, [])
        if number not in cuts or cuts[number].note.body.get("digest") != digest(found):
            where = f"from {min(found).first} on " if found else ""
            return f"the records that are missing {where}are not those that cut {number} tells of"
    return None


def _tells_of(record: ChainedRecord, start: Anchor) -> bool:
    body = record.note.body
    return (body.get("through"), body.get("hash")) == tuple(start)
