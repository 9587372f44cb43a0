"""Checks of directories that hold secrets: a user who can write to one can replace or remove a key.

Mode 0600 prevents reading a file, but not replacing it: that depends on its directory. A directory
of secrets must therefore belong to root or to this process's user, and no other user may write to
it or to the directories above it. For those above, and for files that are only read, a sticky bit
as in /tmp is enough.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def exposure(directory: Path) -> str | None:
    """Return the reason that another user could write to a directory of secrets, with a remedy.

    Returns None if no other user can. A missing directory will be created with mode 0700, so only
    those above it are checked.
    """
    for path, found in _existing(directory):
        if path == directory.absolute().resolve():
            problem = _own_problem(path, found)
        else:
            problem = _problem_above(path, found)
        if problem is not None:
            return problem
    return None


def _own_problem(path: Path, found: os.stat_result) -> str | None:
    if found.st_uid not in {0, os.geteuid()}:
        return f"{path} belongs to user {found.st_uid}, who can replace keys: chown {os.geteuid()} {path}"
    if found.st_mode & _OTHERS:
        mode = f"{stat.S_IMODE(found.st_mode):04o}"
        return f"other users can write to {path} (mode {mode}), and replace keys: chmod 0700 {path}"
    return None


def _problem_above(path: Path, found: os.stat_result) -> str | None:
    if not found.st_mode & stat.S_IWOTH or found.st_mode & stat.S_ISVTX:
        return None
    mode = f"{stat.S_IMODE(found.st_mode):04o}"
    return f"other users can replace files in {path} (mode {mode}), including keys: chmod o-w {path}"


def replaceable(file: Path) -> str | None:
    """Return the reason that another user could replace a file, with a remedy; else None."""
    problems = (_problem_above(*each) for each in _existing(file.absolute().parent))
    return next((problem for problem in problems if problem is not None), None)


def _existing(directory: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield the directory and those above it that exist and are accessible."""
    try:
        resolved = directory.absolute().resolve()
    except (OSError, RuntimeError, ValueError):  # a loop of links, or a null byte
        return
    for path in (resolved, *resolved.parents):
        try:
            yield path, path.stat()
        except OSError:
            continue
