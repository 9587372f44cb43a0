"""A daemon's log file, read as it grows."""

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any


class LogFile:
    """The JSON lines of a file; other lines are skipped."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read = 0
        self._entries: list[dict[str, Any]] = []

    def entries(self) -> list[dict[str, Any]]:
        """Return all lines so far; an incomplete last line is returned by a later call."""
        if self.path.exists():
            with self.path.open("rb") as file:
                file.seek(self._read)
                whole, newline, _ = file.read().rpartition(b"\n")
            self._read += len(whole + newline)
            self._entries += [json.loads(line) for line in whole.splitlines() if line.startswith(b"{")]
        return self._entries

    def find(self, event: str, since: float, **fields: object) -> dict[str, Any] | None:
        """Return the first such line at ``since`` (Unix seconds) or later."""
        for entry in self.entries():
            same = entry["event"] == event and all(entry.get(k) == v for k, v in fields.items())
            if same and logged_at(entry) >= since:
                return entry
        return None


def logged_at(entry: Mapping[str, Any]) -> float:
    """Return the time of a line, in Unix seconds."""
    return datetime.fromisoformat(entry["timestamp"]).timestamp()
