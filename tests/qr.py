"""A scanner for the QR codes that a terminal shows."""

import zxingcpp

SCALE = 4
"""Pixels of a module."""


def scanned(drawn: str) -> list[str]:
    """Return the texts of the QR codes in the lines of a terminal."""
    rows: list[bytes] = []
    for line in drawn.splitlines():
        for dark in ("▀█", "▄█"):
            row = b"".join(bytes([0 if char in dark else 255]) * SCALE for char in line)
            rows += [row] * SCALE
    image = memoryview(b"".join(rows)).cast("B", (len(rows), len(rows[0])))
    return [found.text for found in zxingcpp.read_barcodes(image)]
