"""A WireGuard key of our own making, in a file that only its owner can read."""

import base64
import secrets
from pathlib import Path

from dstack_vpn.adapters.store.private import create_private
from dstack_vpn.core.wireguard.keys import KEY_LENGTH, PrivateKey
from dstack_vpn.core.wireguard.x25519 import clamp
from dstack_vpn.errors import DstackVpnError, FormatError


def make(path: Path) -> PrivateKey:
    """Make a key and its file; if another process was faster, return its key. Raises `DstackVpnError`."""
    key = clamp(secrets.token_bytes(KEY_LENGTH))
    try:
        create_private(path, base64.b64encode(key.reveal()) + b"\n")
        return PrivateKey.parse(path.read_text().strip())
    except OSError as error:
        raise DstackVpnError(f"STATE_DIR: can't keep a key in {path}: {error.strerror}") from error
    except (FormatError, UnicodeDecodeError):
        raise DstackVpnError(f"STATE_DIR: {path} holds no WireGuard key: restore it, or remove it") from None
