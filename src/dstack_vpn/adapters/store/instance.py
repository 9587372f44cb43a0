"""A random name of this state directory, by which a daemon recognizes what an earlier one has made."""

import re
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Final

from dstack_vpn.adapters.store.private import create_private

FILE: Final = "instance"
_FORM: Final = re.compile(r"[0-9a-f]{32}", re.ASCII)


def read(state_dir: Path) -> str:
    """The name; empty if there is none."""
    try:
        text = (state_dir / FILE).read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""
    return text if _FORM.fullmatch(text) else ""


def read_or_make(state_dir: Path) -> str:
    """The name, made if there is none; empty if the directory can't be written."""
    if not read(state_dir):
        with suppress(OSError):
            create_private(state_dir / FILE, secrets.token_hex(16) + "\n")
    return read(state_dir)
