"""The hash chain of the audit log shows altered, missing, moved and inserted records."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from dstack_vpn.core.observe.audit_chain import ORIGIN, AuditRecord, ChainedRecord, check, seal

scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=20))
notes = st.builds(
    AuditRecord, st.floats(0, 2e9), st.text(max_size=10), st.dictionaries(st.text(max_size=5), scalars)
)


def chain(written: list[AuditRecord]) -> list[ChainedRecord]:
    records, end = [], ORIGIN
    for note in written:
        records.append(seal(end, note))
        end = records[-1].anchor
    return records


@given(st.lists(notes, max_size=8))
def test_what_was_written_is_sound(written: list[AuditRecord]) -> None:
    records = chain(written)
    end, problem = check(ORIGIN, records)
    assert problem is None
    assert end == (records[-1].anchor if records else ORIGIN)


@given(st.lists(notes, min_size=1, max_size=8), notes, st.data())
def test_an_altered_record_is_found(
    written: list[AuditRecord], other: AuditRecord, data: st.DataObject
) -> None:
    records = chain(written)
    place = data.draw(st.integers(0, len(records) - 1))
    if seal(ORIGIN, other) == seal(ORIGIN, records[place].note):
        return
    records[place] = replace(records[place], note=other)
    end, problem = check(ORIGIN, records)
    assert end.number == place
    assert problem == f"record {place + 1} is not what was written"


@given(st.lists(notes, min_size=2, max_size=8), st.data())
def test_a_record_that_was_left_out_is_missed(written: list[AuditRecord], data: st.DataObject) -> None:
    records = chain(written)
    place = data.draw(st.integers(0, len(records) - 2))
    del records[place]
    end, problem = check(ORIGIN, records)
    assert end.number == place
    assert problem is not None
    assert f"record {place + 1} is missing" in problem


def test_the_hash_is_the_same_for_everyone() -> None:
    # The record is written out here, so that a change of the format fails this test: such a change
    # would invalidate every existing log.
    record = seal(ORIGIN, AuditRecord(1.5, "peer.set", {"token": 1, "node": "a"}))
    text = '[1,1.5,"peer.set",{"node":"a","token":1}]'
    import hashlib

    assert record.hash == hashlib.sha256(bytes(32) + text.encode()).hexdigest()
