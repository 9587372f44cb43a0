"""Foreign text, escaped for a terminal."""


def printable(value: object) -> str:
    """Return a value as text without control characters."""
    text = "-" if value is None or value == "" else str(value)
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def printable_lines(value: object) -> str:
    """Return a text of several lines without other control characters."""
    return "\n".join(map(printable, str(value).split("\n")))


def printable_text(text: str) -> str:
    """Return a text with its lines and tabs, and without other control characters."""
    return "".join(
        c if c.isprintable() or c in "\n\t" else f"\\x{ord(c):02x}" for c in text.replace("\r\n", "\n")
    )
