"""Protection of the process's memory from core dumps, debuggers and swap.

The daemon calls this once, when it starts. Steps that the system does not permit are skipped.
"""

import ctypes
import resource
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

_log = structlog.get_logger(component="node")

NO_CORE: Final = 1
"""Bytes of a core dump: too few for a file. If dumps are piped to a program, this is the only limit
that Linux respects (fs/coredump.c). With 0 the program would get the dump."""
_PR_GET_DUMPABLE: Final = 3
_PR_SET_DUMPABLE: Final = 4
_MCL_CURRENT: Final = 1
_MCL_FUTURE: Final = 2
_MCL_ONFAULT: Final = 4
_CAP_IPC_LOCK: Final = 14


@dataclass(frozen=True, slots=True)
class Hardened:
    """The protections in effect."""

    no_core: bool
    """No core dumps of this process and of its child processes."""
    undumpable: bool
    """Other processes of this user can't read or trace the process."""
    locked: bool
    """Memory is not swapped out."""


def harden() -> Hardened:
    """Apply all permitted protections. Raises nothing."""
    libc = ctypes.CDLL(None, use_errno=True)
    done = Hardened(_without_core(), _undumpable(libc), _locked(libc))
    _log.info("node.hardened", no_core=done.no_core, undumpable=done.undumpable, memory_locked=done.locked)
    return done


def _without_core() -> bool:
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (NO_CORE, NO_CORE))
    except (ValueError, OSError):
        return resource.getrlimit(resource.RLIMIT_CORE)[0] <= NO_CORE
    return True


def _undumpable(libc: ctypes.CDLL) -> bool:
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    return bool(libc.prctl(_PR_GET_DUMPABLE, 0, 0, 0, 0) == 0)


def _locked(libc: ctypes.CDLL) -> bool:
    """Lock pages when they are first used, now and later, unless a limit applies.

    Locking everything that is mapped would make all of it resident: twice the memory. A process
    that reaches its limit of locked memory later can't allocate any more.
    """
    unlimited = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] == resource.RLIM_INFINITY
    if not unlimited and not _may_lock():
        return False
    return bool(libc.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT) == 0)


def _may_lock() -> bool:
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return False
    mask = next((line.split()[1] for line in status.splitlines() if line.startswith("CapEff:")), "0")
    return bool(int(mask, 16) >> _CAP_IPC_LOCK & 1)
