"""Keeps what is in this process's memory there: out of core dumps, debuggers and swap, as far as that goes.

Everything here is done once, when the daemon starts, and whatever the system does not permit is left out.
"""

import ctypes
import resource
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

_log = structlog.get_logger(component="node")

NO_CORE: Final = 1
"""Bytes of a core dump: too few for a file, and the one limit that Linux heeds where dumps are piped to a
program (fs/coredump.c), which with 0 would get them."""
_PR_GET_DUMPABLE: Final = 3
_PR_SET_DUMPABLE: Final = 4
_MCL_CURRENT: Final = 1
_MCL_FUTURE: Final = 2
_MCL_ONFAULT: Final = 4
_CAP_IPC_LOCK: Final = 14


@dataclass(frozen=True, slots=True)
class Hardened:
    """The outcome."""

    no_core: bool
    """No core dumps, of this process and of those that it starts."""
    undumpable: bool
    """Not to be read or traced by other processes of this user."""
    locked: bool
    """Not to be swapped out."""


def harden() -> Hardened:
    """Do all that is permitted. Raises nothing."""
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
    """Lock pages as they are used, now and later; if there is a limit, not at all.

    To lock everything that is mapped would make all of it resident: twice the memory. And a process that
    reaches its limit of locked memory later gets no more memory at all.
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
