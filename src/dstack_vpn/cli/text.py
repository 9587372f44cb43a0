"""Text from elsewhere, made fit for a terminal."""


def printable(value: object) -> str:
    """Any value as text that can't move the cursor."""
    text = "-" if value is None or value == "" else str(value)
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def printable_lines(value: object) -> str:
    """The same for a text of several lines."""
    return "\n".join(map(printable, str(value).split("\n")))
