"""Advice about a failing disk."""

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
"""The advice, by the message of SQLite or the system."""


def advice(error: Exception) -> str:
    """Return the advice to append to a message; empty if none is known."""
    return next((what for sign, what in _ADVICE.items() if sign in str(error)), "")
