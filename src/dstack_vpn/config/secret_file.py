"""Reading of a secret from its file, which only its owner may be able to read."""

import codecs
import os
import stat
from pathlib import Path
from typing import Final

from dstack_vpn.config.private import replaceable
from dstack_vpn.errors import FormatError

LIMIT: Final = 4096
"""The maximum size of a secret's file, in bytes."""


def read_secret(
    name: str, path: Path, problems: list[str], example: str = "/etc/dstack-vpn/wireguard.key"
) -> str | None:
    """Return the file's text without blanks at its ends.

    If it can't be used, append the problem and return None. ``name`` is the setting or the flag,
    with an ``example`` of its value.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(LIMIT + 1)
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        reason = error.strerror if isinstance(error, OSError) else "a path can't contain a null byte"
        why = f"{reason}{_owners(path, error)}"
        problems.append(f"{name}: {str(path)!r}: {why}. Example: {name}={example}")
        return None
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        problems.append(f"{name}: {path} can be read by others (mode {mode & 0o777:04o}): chmod 0600 {path}")
        return None
    if (problem := replaceable(path)) is not None:
        problems.append(f"{name}: {problem}")
        return None
    if len(content) > LIMIT or not content.strip():
        problems.append(f"{name}: {path} is empty, or longer than {LIMIT} bytes")
        return None
    try:
        return without_mark(content).decode("utf-8", "replace").strip()
    except FormatError as error:
        problems.append(f"{name}: {path}: {error}")
        return None


def _owners(path: Path, error: Exception) -> str:
    """Return the owners of file and process after a permission error; else an empty text.

    In a container, a file's mode may also bind root.
    """
    if not isinstance(error, PermissionError):
        return ""
    try:
        return f": it belongs to user {path.stat().st_uid}, and this process to user {os.geteuid()}"
    except OSError:
        return ""  # the directory can't be searched


def without_mark(content: bytes) -> bytes:
    """Remove the byte order mark that some editors write; raises `FormatError` for UTF-16."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise FormatError("the file is UTF-16 text: save it as UTF-8")
    return content.removeprefix(codecs.BOM_UTF8)
