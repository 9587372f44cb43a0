"""QR codes (ISO/IEC 18004) in a terminal and as images."""

import os
from pathlib import Path
from typing import Final

from rich.text import Text

from dstack_vpn.errors import AdminError

_BLOCKS: Final = {(0, 0): " ", (1, 0): "▀", (0, 1): "▄", (1, 1): "█"}
"""The characters for two modules, one above the other: 1 is dark."""


def qr(text: str) -> Text:
    """Return a QR code with its quiet zone.

    A character shows two modules, so that they are about square. The colours are set, because
    scanners expect dark modules on a light background.
    """
    import segno  # only this needs it, and the daemon does not

    rows = [list(row) for row in segno.make_qr(text, error="l").matrix_iter(border=4)]
    if len(rows) % 2:
        rows.append([0] * len(rows[0]))
    lines = (
        "".join(_BLOCKS[pair] for pair in zip(*both, strict=True))
        for both in zip(rows[::2], rows[1::2], strict=True)
    )
    return Text("\n").join(Text(line, "black on white", no_wrap=True) for line in lines)


def write_png(text: str, path: Path) -> None:
    """Write a QR code to a new file that only its owner can read; raises `AdminError`."""
    import segno

    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise AdminError(f"{path}: {error.strerror}") from error
    with os.fdopen(descriptor, "wb") as file:
        segno.make_qr(text, error="l").save(file, kind="png", scale=8, border=4)
