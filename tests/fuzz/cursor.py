"""Read the parts of a composed input. It continues with zeros, so that each input is complete."""


class Cursor:
    """A position in the input."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def take(self, count: int) -> bytes:
        """Return the next bytes."""
        taken = self._data[self._at : self._at + count]
        self._at += count
        return taken.ljust(count, b"\0")

    def byte(self) -> int:
        """Return the next byte."""
        return self.take(1)[0]

    def blob(self) -> bytes:
        """Return a blob with its length in the next two bytes (big-endian), or the rest."""
        count = int.from_bytes(self.take(2), "big")
        return self.take(min(count, max(len(self._data) - self._at, 0)))

    def rest(self) -> bytes:
        """Return the remaining bytes."""
        rest = self._data[self._at :]
        self._at = len(self._data)
        return rest


def blob(data: bytes) -> bytes:
    """Return the input from which `Cursor.blob` reads the data."""
    return len(data).to_bytes(2, "big") + data
