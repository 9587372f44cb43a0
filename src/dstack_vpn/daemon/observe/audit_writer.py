"""The writer of the audit log: it records every event, in the background, and never delays one.

Records that can't be written wait, up to a bound. Beyond it the oldest record of a passing kind is
dropped (`core.observe.audit_retention`), or if there is none, the oldest of all. The next record
states the number of dropped records; health shows the failure.
"""

import asyncio
import heapq
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import structlog

from dstack_vpn.core.observe.audit_chain import Anchor, AuditRecord
from dstack_vpn.core.observe.audit_retention import is_lasting
from dstack_vpn.core.observe.event import Entry, Event
from dstack_vpn.core.observe.events import DecisionsChanged
from dstack_vpn.errors import StoreError
from dstack_vpn.ports import AuditLog, Clock

_log = structlog.get_logger(component="store")

WAITING: Final = 20_000
"""The limit of records that wait to be written."""
GATHER: Final = 0.25
"""Seconds for which records are collected into one write."""
RETRY: Final = 5.0
"""Seconds until the next attempt after a failure."""
DAY: Final = 86_400.0
TIDY: Final = 3600.0
"""Seconds between checks for records that are older than the retention time."""


@dataclass(slots=True)
class AuditWriter:
    """Keeps the audit log. Absorbs `StoreError`: health shows it."""

    audit_log: AuditLog
    clock: Clock
    keep_for: float
    """Seconds."""
    keep_bytes: int
    problem: str | None = field(default=None, init=False)
    """The reason that the audit log can't be written, or None."""
    _passing: deque[tuple[int, AuditRecord]] = field(default_factory=deque)
    """Waiting records of passing kinds, with their numbers."""
    _lasting: deque[tuple[int, AuditRecord]] = field(default_factory=deque)
    _last: int = 0
    """The number of the newest record."""
    _dropped: int = 0
    _writing: tuple[asyncio.Future[Anchor], list[AuditRecord]] | None = None
    _news: asyncio.Event = field(default_factory=asyncio.Event)
    _tidied: float = float("-inf")

    def take(self, entry: Entry) -> None:
        """Queue an event; a listener of the event log."""
        many = entry.event if isinstance(entry.event, DecisionsChanged) else None
        events: tuple[Event, ...] = (entry.event,) if many is None else many.decisions
        for event in events:
            self.note(AuditRecord(entry.at, event.name, event.shown()))

    def note(self, note: AuditRecord) -> None:
        """Queue a record."""
        self._last += 1
        self._lane(note).append((self._last, note))
        if len(self._passing) + len(self._lasting) > WAITING:
            (self._passing or self._lasting).popleft()
            self._dropped += 1
        self._news.set()

    def _lane(self, note: AuditRecord) -> deque[tuple[int, AuditRecord]]:
        return self._lasting if is_lasting(note.kind) else self._passing

    async def run(self) -> None:
        """Write queued records until cancelled."""
        self.note(AuditRecord(self.clock.now(), "node.started", {}))
        while True:
            await self._news.wait()
            await asyncio.sleep(GATHER)
            if not await self.flush():
                await asyncio.sleep(RETRY)

    async def close(self) -> None:
        """Write the remaining records at shutdown."""
        self.note(AuditRecord(self.clock.now(), "node.stopped", {}))
        await self.flush()

    async def flush(self) -> bool:
        """Write the waiting records; return whether that succeeded."""
        try:
            await self._settle()
            self._news.clear()
            if self._passing or self._lasting:
                notes, self._dropped = self._taken(), 0
                append = asyncio.get_running_loop().run_in_executor(None, self.audit_log.append, notes)
                # A write goes on although its task is cancelled: the next flush has to await it.
                self._writing = append, notes
                with suppress(StoreError):
                    await asyncio.shield(append)
                await self._settle()
            await self._tidy()
        except StoreError as error:
            if self.problem is None:
                _log.error("audit.trouble", problem=str(error))
            self.problem = str(error)
            self._news.set()
            return False
        self.problem = None
        return True

    def _taken(self) -> list[AuditRecord]:
        gap = (
            [AuditRecord(self.clock.now(), "audit.gap", {"records": self._dropped})] if self._dropped else []
        )
        notes = [*gap, *(note for _, note in heapq.merge(self._passing, self._lasting))]
        self._passing.clear()
        self._lasting.clear()
        return notes

    async def _settle(self) -> None:
        """Await the last write; the records of a failed one wait again. Raises `StoreError`."""
        if self._writing is None:
            return
        (append, notes), self._writing = self._writing, None
        try:
            await append
        except StoreError:
            self._wait_again(notes)
            raise

    def _wait_again(self, notes: list[AuditRecord]) -> None:
        """Queue records before those that came since, in their order."""
        since = [note for _, note in heapq.merge(self._passing, self._lasting)]
        self._passing.clear()
        self._lasting.clear()
        for note in (*notes, *since):
            if note.kind == "audit.gap":
                self._dropped += int(note.body["records"] or 0)
            else:
                self.note(note)

    async def _tidy(self) -> None:
        now = self.clock.now()
        if now - self._tidied < TIDY:
            return
        self._tidied = now
        # By whole days, so that a day has one record of a cut by age.
        before = (now - self.keep_for) // DAY * DAY
        gone = await asyncio.to_thread(
            lambda: self.audit_log.forget(now=now, before=before, largest=self.keep_bytes)
        )
        if gone:
            _log.info("audit.forgot", records=gone)
