"""A random name of the state directory.

By this name a daemon recognizes what an earlier one created.
"""

import re
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Final

from dstack_vpn.adapters.store.private import create_private

FILE: Final = "instance"
_FORM: Final = re.compile(r"[0-9a-f]{32}", re.ASCII)


def read(state_dir: Path) -> str:
    """Return the name. Empty if it is missing."""
    try:
        text = (state_dir / FILE).read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""
    return text if _FORM.fullmatch(text) else ""


def read_or_make(state_dir: Path) -> str:
    """Return the name, generated if it is missing. Empty if the directory is not writable."""
    if not read(state_dir):
        with suppress(OSError):
            create_private(state_dir / FILE, secrets.token_hex(16) + "\n")
    return read(state_dir)
