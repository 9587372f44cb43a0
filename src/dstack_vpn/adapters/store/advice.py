"""What to do about a disk that does not do what it should."""

import errno
import os
from typing import Final

_ADVICE: Final = {
    "disk is full": ": free some space in STATE_DIR; the tunnel goes on without",
    "readonly": ": STATE_DIR must be writable; the tunnel goes on without",
    "unable to open": ": STATE_DIR must be a directory that we may write to; the tunnel goes on without",
    os.strerror(errno.EROFS): ": mount STATE_DIR writable; the tunnel goes on without",
    os.strerror(errno.ENOSPC): ": free some space in STATE_DIR; the tunnel goes on without",
}
"""What to do, by what SQLite or the system says."""


def advice(error: Exception) -> str:
    """What to do about it, to be put behind it; empty where nothing is known."""
    return next((what for sign, what in _ADVICE.items() if sign in str(error)), "")
