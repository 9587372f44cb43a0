"""Locks: one daemon for each state directory, and for each interface name in a network namespace.

The first lock is on the directory itself, so it also works on a full or read-only disk, and the
kernel releases it at any end of the process. Its scope is the file system: containers that share a
volume see each other's lock, machines that share a key but no directory don't.

The second lock is an abstract Unix socket. Such sockets belong to the network namespace, as the
interface does. It listens, so that another daemon can identify the holder. Any user can bind such a
name. A holder that is neither root nor our own user can't have our interface, and is ignored.
"""

import fcntl
import os
import socket
import struct
from pathlib import Path
from typing import Final

from dstack_vpn.errors import StoreError

_UCRED: Final = struct.Struct("=iII")


def lock(state_dir: Path) -> int | None:
    """Lock the directory for the life of this process. Return the descriptor that holds the lock.

    Return None if no directory is available, which the store reports. Raises `StoreError` if
    another process has the lock.
    """
    try:
        state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(state_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise StoreError(
            f"another dstack-vpn runs with STATE_DIR={state_dir}: two with one node id and key would take "
            "the tunnels from each other. Stop one, or give this node a separate STATE_DIR, NODE_ID and key"
        ) from None
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def is_locked(state_dir: Path) -> bool:
    """Return True if a running daemon has locked the directory. Creates nothing."""
    try:
        descriptor = os.open(state_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return False


def claim_interface(name: str) -> socket.socket | None:
    """Claim the interface's name in this network namespace while the socket is open.

    Return None if another process has claimed it, or if abstract sockets are not available.
    """
    claim = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        claim.bind(_address(name))
        claim.listen()
    except OSError:
        claim.close()
        return None
    return claim


def holder(name: str) -> int | None:
    """Return the process that has claimed the interface's name. None if the name is free.

    0 means that the process id is unknown.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(_address(name))
        except BlockingIOError:
            return 0  # a full queue proves that it listens
        except OSError:
            return None
        credentials = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    process, user, _ = _UCRED.unpack(credentials)
    return int(process) if user in {0, os.geteuid()} else None


def _address(name: str) -> str:
    return f"\0dstack-vpn/{name}"
