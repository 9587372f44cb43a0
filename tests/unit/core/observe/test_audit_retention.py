"""The records that are cut from a log that is too large, and gaps without a record of a cut."""

from collections.abc import Sequence

import pytest

from dstack_vpn.core.observe.audit_chain import ORIGIN, Anchor, AuditRecord, Body, ChainedRecord
from dstack_vpn.core.observe.audit_retention import (
    CUT,
    EACH_TOKEN,
    Kept,
    RecordRun,
    TooMuch,
    digest,
    is_lasting,
    of_head,
    of_thinning,
    runs,
    too_much,
    unexplained,
)

LASTING, PASSING = "node.started", "peer.set"


def log(*kinds: str, size: int = 10) -> list[Kept]:
    return [Kept(number, kind, None, size) for number, kind in enumerate(kinds, 1)]


def decisions(token: int, count: int, *, first: int = 1) -> list[Kept]:
    return [Kept(first + n, "access.decided", token, 10) for n in range(count)]


def test_nothing_goes_while_there_is_room() -> None:
    assert too_much(log(PASSING, PASSING), 20) == TooMuch(0, ())


def test_passing_records_go_first_oldest_first_and_only_as_many_as_needed() -> None:
    records = log(LASTING, PASSING, LASTING, PASSING, PASSING, LASTING)
    assert too_much(records, 50) == TooMuch(0, (2,))
    assert too_much(records, 45) == TooMuch(0, (2, 4))


def test_the_end_of_the_chain_stays_even_if_it_is_passing() -> None:
    assert too_much(log(PASSING, PASSING, PASSING), 1) == TooMuch(0, (1, 2))


def test_lasting_records_go_from_the_head_if_they_alone_are_too_many() -> None:
    found = too_much(log(PASSING, LASTING, LASTING, LASTING, LASTING), 40)
    assert found == TooMuch(2, ()), "30 of 40 bytes are lasting ones' part; the passing one before goes too"


def test_only_the_newest_decisions_about_a_token_are_kept_like_our_own() -> None:
    about_one = decisions(1, EACH_TOKEN + 2)
    about_another = decisions(2, 1, first=EACH_TOKEN + 3)
    records = [*about_one, *about_another]
    size = sum(record.size for record in records)
    flood = [Kept(len(records) + n, PASSING, None, 2 * size) for n in (1, 2)]
    assert too_much([*records, *flood], 3 * size) == TooMuch(0, (1, 2, len(records) + 1))


@pytest.mark.parametrize(("kind", "lasting"), [(CUT, True), ("key.renewed", True), ("chain.event", False)])
def test_a_kind_is_lasting_by_its_area(kind: str, lasting: bool) -> None:
    assert is_lasting(kind) is lasting


def at(number: int) -> Anchor:
    return Anchor(number, f"h{number}")


def test_runs_are_of_consecutive_numbers() -> None:
    assert list(runs(map(at, (2, 3, 5, 7, 8, 9)), 12)) == [
        RecordRun(2, at(3), 12),
        RecordRun(5, at(5), 12),
        RecordRun(7, at(9), 12),
    ]
    assert list(runs((), 12)) == []


def cut(number: int, body: Body) -> ChainedRecord:
    return ChainedRecord(number, AuditRecord(0.0, CUT, body), f"h{number}")


def thinning(number: int, *gone: int) -> tuple[list[RecordRun], ChainedRecord]:
    thinned = list(runs(map(at, gone), number))
    return thinned, cut(number, of_thinning([Kept(n, PASSING, None, 10) for n in gone], thinned))


def test_a_thinning_counts_what_it_cut_by_kind() -> None:
    gone = [Kept(2, PASSING, None, 1), Kept(3, "chain.event", None, 1), Kept(5, PASSING, None, 1)]
    body = of_thinning(gone, [])
    assert (body["records"], body["through"], body["kinds"]) == (3, 5, "chain.event 1, peer.set 2")


def test_a_digest_does_not_depend_on_the_order_of_runs() -> None:
    one, two = RecordRun(2, at(3), 9), RecordRun(5, at(5), 9)
    assert digest([one, two]) == digest([two, one]) != digest([one])


def test_gaps_with_their_records_of_cuts_are_explained() -> None:
    thinned, record = thinning(9, 5, 6)
    head = cut(8, of_head("age", 3, at(3), 1.0))
    assert unexplained(at(3), thinned, [head, record]) is None
    assert unexplained(ORIGIN, (), ()) is None


def gaps() -> Sequence[tuple[Anchor, list[RecordRun], list[ChainedRecord], str]]:
    thinned, record = thinning(9, 5, 6)
    head = cut(8, of_head("age", 3, at(3), 1.0))
    return [
        (at(3), [], [], "up to 3"),
        (at(4), [], [head], "up to 4"),
        (Anchor(3, "another"), [], [head], "up to 3"),
        (ORIGIN, thinned, [], "from 5 on"),
        (ORIGIN, list(runs([at(5)], 9)), [record], "from 5 on"),
        (ORIGIN, [], [record], "cut 9"),
    ]


@pytest.mark.parametrize(("start", "thinned", "told", "named"), gaps())
def test_a_gap_without_its_record_is_named(
    start: Anchor, thinned: list[RecordRun], told: list[ChainedRecord], named: str
) -> None:
    found = unexplained(start, thinned, told)
    assert found is not None
    assert named in found
