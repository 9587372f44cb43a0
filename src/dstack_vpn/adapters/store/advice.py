"""Remedies for disk errors, appended to error messages."""

import errno
import os
from typing import Final

_ADVICE: Final = {
    "disk is full": ": free some space in STATE_DIR; the tunnel works without it",
    "readonly": ": STATE_DIR must be writable; the tunnel works without it",
    "unable to open": ": STATE_DIR must be a writable directory; the tunnel works without it",
    os.strerror(errno.EROFS): ": mount STATE_DIR writable; the tunnel works without it",
    os.strerror(errno.ENOSPC): ": free some space in STATE_DIR; the tunnel works without it",
}
"""The advice by a part of SQLite's or the system's message."""


def advice(error: Exception) -> str:
    """Return the advice to append to a message. Empty if none is known."""
    return next((text for pattern, text in _ADVICE.items() if pattern in str(error)), "")
