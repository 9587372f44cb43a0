"""Audit log records: their order, their limit in memory, and a disk that is full for a while."""

import asyncio
from collections.abc import Sequence

import pytest
from tests.integration.support import eventually

from dstack_vpn.adapters.clock import SystemClock
from dstack_vpn.core.observe.audit_chain import ORIGIN, Anchor, AuditRecord
from dstack_vpn.core.observe.event import Entry
from dstack_vpn.core.observe.events import Decided, DecisionsChanged, Reorged
from dstack_vpn.daemon.observe import audit_writer
from dstack_vpn.daemon.observe.audit_writer import AuditWriter
from dstack_vpn.errors import StoreError


class Pages:
    """An in-memory audit log whose disk can be full."""

    def __init__(self) -> None:
        self.notes: list[AuditRecord] = []
        self.full = False

    def append(self, notes: Sequence[AuditRecord]) -> Anchor:
        if self.full:
            raise StoreError("no space left on device")
        self.notes += notes
        return ORIGIN

    def forget(self, *, now: float, before: float, largest: int) -> int:
        return 0

    @property
    def kinds(self) -> list[str]:
        return [note.kind for note in self.notes]


@pytest.fixture
def pages() -> Pages:
    return Pages()


@pytest.fixture
def made(pages: Pages, monkeypatch: pytest.MonkeyPatch) -> AuditWriter:
    monkeypatch.setattr(audit_writer, "GATHER", 0.01)
    monkeypatch.setattr(audit_writer, "RETRY", 0.01)
    return AuditWriter(pages, SystemClock(), keep_for=100.0, keep_bytes=1000)


async def test_what_happens_is_written_in_its_order(made: AuditWriter, pages: Pages) -> None:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(made.run())
        for number in range(3):
            made.take(Entry(number, 7.0, Reorged(number, 0, 0, 9)))
        await eventually(lambda: len(pages.notes) == 4, "four records")
        task.cancel()
    await made.close()
    assert sorted(pages.kinds) == ["chain.reorg"] * 3 + ["node.started", "node.stopped"]
    assert pages.kinds[-1] == "node.stopped"
    assert [n.body["depth"] for n in pages.notes if n.kind == "chain.reorg"] == [0, 1, 2]


async def test_many_decisions_at_once_are_one_event_and_a_record_each(
    made: AuditWriter, pages: Pages
) -> None:
    each = tuple(Decided(token, None, token % 2 == 0, "active", None) for token in range(100))
    made.take(Entry(1, 7.0, DecisionsChanged(50, 50, each)))
    await made.flush()
    assert pages.kinds == ["access.decided"] * 100
    assert [note.body["token"] for note in pages.notes] == list(range(100))


async def test_a_full_disk_is_told_and_what_was_too_much_is_counted(
    made: AuditWriter, pages: Pages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_writer, "WAITING", 5)
    pages.full = True
    async with asyncio.TaskGroup() as group:
        task = group.create_task(made.run())
        await eventually(lambda: made.problem, "health knows")
        for number in range(7):
            made.take(Entry(number, 7.0, Reorged(number, 0, 0, 9)))
        pages.full = False
        await eventually(lambda: pages.notes, "it is written after all")
        await eventually(lambda: made.problem is None, "health knows that, too")
        task.cancel()
    gap, started, *rest = pages.notes
    assert (gap.kind, gap.body) == ("audit.gap", {"records": 3})
    assert started.kind == "node.started"  # events that outsiders can cause are dropped first
    assert [note.body["depth"] for note in rest] == [3, 4, 5, 6]


async def test_events_push_no_decision_out_of_the_waiting_line(
    made: AuditWriter, pages: Pages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_writer, "WAITING", 50)
    pages.full = True
    made.take(Entry(1, 7.0, Decided(1, "web-1", False, "revoked", "7-1")))
    for number in range(500):
        made.take(Entry(number, 7.0, Reorged(number, 0, 0, 9)))
        if number % 100 == 0:
            await made.flush()
    pages.full = False
    assert await made.flush()
    kinds = pages.kinds
    assert kinds[:2] == ["audit.gap", "access.decided"]
    assert kinds[2:] == ["chain.reorg"] * 49
    assert pages.notes[0].body == {"records": 451}
