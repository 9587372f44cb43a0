"""Generation of a WireGuard key, in a file that only its owner can read."""

import base64
import secrets
from pathlib import Path

from dstack_vpn.adapters.store.private import create_private
from dstack_vpn.core.wireguard.keys import KEY_LENGTH, PrivateKey
from dstack_vpn.core.wireguard.x25519 import clamp
from dstack_vpn.errors import DstackVpnError, FormatError


def make(path: Path) -> PrivateKey:
    """Generate a key and its file. If another process was faster, return its key.

    Raises `DstackVpnError`.
    """
    key = clamp(secrets.token_bytes(KEY_LENGTH))
    try:
        create_private(path, base64.b64encode(key.reveal()) + b"\n")
        return PrivateKey.parse(path.read_text().strip())
    except OSError as error:
        raise DstackVpnError(f"STATE_DIR: can't write a key to {path}: {error.strerror}") from error
    except (FormatError, UnicodeDecodeError):
        raise DstackVpnError(f"STATE_DIR: {path} has no WireGuard key: restore it, or remove it") from None
