"""A WireGuard key of our own making, in a file that only its owner can read."""

import base64
import os
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path

from dstack_vpn.core.keys import KEY_LENGTH, PrivateKey
from dstack_vpn.core.x25519 import clamp
from dstack_vpn.errors import DstackVpnError


def make(path: Path) -> PrivateKey:
    """Make a key and its file; where another process was faster, its key. Raises `DstackVpnError`."""
    key = clamp(secrets.token_bytes(KEY_LENGTH))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _write(path.parent, key)
        try:
            with suppress(FileExistsError):
                path.hardlink_to(temporary)
            return PrivateKey.parse(path.read_text().strip())
        finally:
            temporary.unlink()
    except OSError as error:
        raise DstackVpnError(f"STATE_DIR: can't keep a key in {path}: {error.strerror}") from error


def _write(folder: Path, key: PrivateKey) -> Path:
    """A file beside the final one, complete and on the disk."""
    descriptor, name = tempfile.mkstemp(dir=folder)  # which makes it 0600
    with os.fdopen(descriptor, "wb") as file:
        file.write(base64.b64encode(key.reveal()) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    return Path(name)
