"""Writes the audit log: everything that happens here, behind the events and never in their way.

What can't be written waits, up to a bound; beyond it the oldest is dropped, and the next record says how many
were. Health shows the trouble.
"""

import asyncio
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import structlog

from dstack_vpn.core.happenings import DecisionsChanged, Entry, plain
from dstack_vpn.core.health import Facts
from dstack_vpn.core.ledger import Anchor, Note
from dstack_vpn.errors import StoreError
from dstack_vpn.ports import Clock, Ledger

_log = structlog.get_logger(component="store")

WAITING: Final = 20_000
"""Notes that wait to be written."""
GATHER: Final = 0.25
"""Seconds in which what happens is written together."""
RETRY: Final = 5.0
"""Seconds after a failure."""
TIDY: Final = 3600.0
"""Seconds between looks for records that are past their keeping."""


@dataclass(slots=True)
class Auditor:
    """Keeps the audit log. Absorbs `StoreError`: health shows it."""

    ledger: Ledger
    clock: Clock
    facts: Facts
    keep_for: float
    """Seconds."""
    keep_bytes: int
    _waiting: deque[Note] = field(default_factory=deque)
    _dropped: int = 0
    _writing: tuple[asyncio.Future[Anchor], list[Note]] | None = None
    _news: asyncio.Event = field(default_factory=asyncio.Event)
    _tidied: float = float("-inf")

    def take(self, entry: Entry) -> None:
        """Have an entry of the journal written."""
        for what in entry.what.decisions if isinstance(entry.what, DecisionsChanged) else (entry.what,):
            body = plain(what)
            self.note(Note(entry.at, str(body.pop("kind")), body))

    def note(self, note: Note) -> None:
        """Have something written."""
        if len(self._waiting) >= WAITING:
            self._waiting.popleft()
            self._dropped += 1
        self._waiting.append(note)
        self._news.set()

    async def run(self) -> None:
        """Write what comes until cancelled."""
        self.note(Note(self.clock.now(), "node.started", {}))
        while True:
            await self._news.wait()
            await asyncio.sleep(GATHER)
            if not await self.flush():
                await asyncio.sleep(RETRY)

    async def close(self) -> None:
        """Write what is left, at the end."""
        self.note(Note(self.clock.now(), "node.stopped", {}))
        await self.flush()

    async def flush(self) -> bool:
        """Write what waits; returns whether that worked."""
        try:
            await self._settle()
            self._news.clear()
            if self._waiting:
                notes, self._dropped = self._taken(), 0
                append = asyncio.get_running_loop().run_in_executor(None, self.ledger.append, notes)
                # A write goes on although its task is cancelled: whoever flushes next has to know of it.
                self._writing = append, notes
                with suppress(StoreError):
                    await asyncio.shield(append)
                await self._settle()
            await self._tidy()
        except StoreError as error:
            if self.facts.audit_problem is None:
                _log.error("audit.trouble", problem=str(error))
            self.facts.audit_problem = str(error)
            self._news.set()
            return False
        self.facts.audit_problem = None
        return True

    def _taken(self) -> list[Note]:
        gap = [Note(self.clock.now(), "audit.gap", {"records": self._dropped})] if self._dropped else []
        notes = [*gap, *self._waiting]
        self._waiting.clear()
        return notes

    async def _settle(self) -> None:
        """See how the last write ended; what it could not write waits again. Raises `StoreError`."""
        if self._writing is None:
            return
        (append, notes), self._writing = self._writing, None
        try:
            await append
        except StoreError:
            for note in reversed(notes):
                if note.kind == "audit.gap":
                    self._dropped += int(note.body["records"] or 0)
                elif len(self._waiting) >= WAITING:
                    self._dropped += 1
                else:
                    self._waiting.appendleft(note)
            raise

    async def _tidy(self) -> None:
        now = self.clock.now()
        if now - self._tidied < TIDY:
            return
        self._tidied = now
        gone = await asyncio.to_thread(
            lambda: self.ledger.forget(before=now - self.keep_for, largest=self.keep_bytes)
        )
        if gone:
            _log.info("audit.forgot", records=gone)
