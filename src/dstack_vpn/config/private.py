"""Directories of secrets: another user who can write to one can take a key's place, or remove it.

A file of mode 0600 is safe from being read, not from being replaced: that is its directory's matter. So a
directory that holds secrets belongs to root or to our user, and no other user can write to it or to the
directories above it. The sticky bit of /tmp is enough above it, and for files that we only read.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def exposure(directory: Path) -> str | None:
    """Return the reason why another user could write to a directory of secrets, and a remedy; else None.

    A missing directory will be made with mode 0700, so those above it are judged.
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
        return f"{path} belongs to user {found.st_uid}, who could replace keys: chown {os.geteuid()} {path}"
    if found.st_mode & _OTHERS:
        mode = f"{stat.S_IMODE(found.st_mode):04o}"
        return f"other users can write to {path} (mode {mode}), and replace keys: chmod 0700 {path}"
    return None


def _problem_above(path: Path, found: os.stat_result) -> str | None:
    if not found.st_mode & stat.S_IWOTH or found.st_mode & stat.S_ISVTX:
        return None
    mode = f"{stat.S_IMODE(found.st_mode):04o}"
    return f"other users can replace what is in {path} (mode {mode}), keys too: chmod o-w {path}"


def replaceable(file: Path) -> str | None:
    """Return the reason why another user could replace a file of a secret, and a remedy; else None."""
    problems = (_problem_above(*each) for each in _existing(file.absolute().parent))
    return next((problem for problem in problems if problem is not None), None)


def _existing(directory: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """The directory and those above it, as far as they exist and can be looked at."""
    try:
        resolved = directory.absolute().resolve()
    except (OSError, RuntimeError, ValueError):  # a loop of links, or a null byte
        return
    for path in (resolved, *resolved.parents):
        try:
            yield path, path.stat()
        except OSError:
            continue
