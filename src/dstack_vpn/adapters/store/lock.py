"""One daemon for each state directory, and one for each interface name in a network namespace.

The first lock is on the directory itself, so a disk that is full or read-only does not stand in its way, and
the kernel lets go of it when the process ends, however it does. It reaches as far as the file system does:
containers that share a volume see each other's, machines that share a key but no directory don't.

The second lock is an abstract Unix socket, because these belong to the network namespace, as the interface
does. It listens, so that another daemon can learn who has it. Any user can bind such a name: a holder that is
neither root nor our own user has no interface to share with us, and is ignored.
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
    """Claim the directory for the life of this process; the descriptor that holds it.

    None if no directory is available; the store reports that. Raises `StoreError` if another
    process has claimed it.
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
            "the tunnels from each other. Stop one, or give this node a STATE_DIR, a NODE_ID and a key of "
            "its own"
        ) from None
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def is_locked(state_dir: Path) -> bool:
    """Return True if a running daemon has claimed the directory; nothing is created."""
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
    """Claim the interface's name in this network namespace, for as long as the socket is open.

    None if another process has claimed it, or if abstract sockets are not available.
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
    """The process that has claimed the interface's name, 0 if its number is unknown; None if none has."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(_address(name))
        except BlockingIOError:
            return 0  # its queue is full, so it listens
        except OSError:
            return None
        credentials = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    process, user, _ = _UCRED.unpack(credentials)
    return int(process) if user in {0, os.geteuid()} else None


def _address(name: str) -> str:
    return f"\0dstack-vpn/{name}"
