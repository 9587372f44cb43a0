"""One daemon for each state directory.

The lock is on the directory itself, so a disk that is full or read-only does not stand in its way, and the
kernel lets go of it when the process ends, however it does. It reaches as far as the file system does:
containers that share a volume see each other's, machines that share a key but no directory don't.
"""

import fcntl
import os
from pathlib import Path

from dstack_vpn.errors import StoreError


def lock(state_dir: Path) -> int | None:
    """Claim the directory for the life of this process; the descriptor that holds it.

    None where there is no directory to be had; the store will say so. Raises `StoreError` where another
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
