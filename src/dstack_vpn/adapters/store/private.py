"""Files that only their owner can read, written completely or not at all.

A draft beside the file is synced to the disk and renamed into place. If anything fails (in
particular on a full disk) the draft is removed, so that no copy of a key remains. A later write
removes the draft of a process that was killed.
"""

import glob
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

STALE: Final = 60.0
"""Seconds after which a draft belongs to a process that has ended."""


def write_private(path: Path, content: str | bytes) -> None:
    """Write a file atomically, with mode 0600. Raises `OSError`."""
    draft = _draft(path, content)
    try:
        draft.replace(path)
    except BaseException:
        _discard(draft)
        raise


def create_private(path: Path, content: str | bytes) -> bool:
    """Create a file atomically, with mode 0600. Return False if it exists. Raises `OSError`."""
    draft = _draft(path, content)
    try:
        path.hardlink_to(draft)
    except FileExistsError:
        return False
    finally:
        _discard(draft)
    return True


def _draft(path: Path, content: str | bytes) -> Path:
    """Write a complete file beside the final one, and sync it."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    draft = Path(name)  # mkstemp sets mode 0600
    try:
        _sweep(path, draft.stat().st_mtime)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        _discard(draft)
        raise
    return draft


def _sweep(path: Path, now: float) -> None:
    """Remove drafts of processes that have ended. ``now`` is the file system's time."""
    for draft in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        with suppress(OSError):
            if now - draft.stat().st_mtime > STALE:
                draft.unlink()


def _discard(draft: Path) -> None:
    with suppress(OSError):
        draft.unlink()
