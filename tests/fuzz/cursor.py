"""Reads the parts of a composed input; past its end there are zeros, so that every input means something."""


class Cursor:
    """A position in the input."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def take(self, count: int) -> bytes:
        """The next bytes."""
        taken = self._data[self._at : self._at + count]
        self._at += count
        return taken.ljust(count, b"\0")

    def byte(self) -> int:
        """The next byte."""
        return self.take(1)[0]

    def blob(self) -> bytes:
        """As many bytes as the next two say (big-endian), or as there are."""
        count = int.from_bytes(self.take(2), "big")
        return self.take(min(count, max(len(self._data) - self._at, 0)))

    def rest(self) -> bytes:
        """What is left."""
        rest = self._data[self._at :]
        self._at = len(self._data)
        return rest


def blob(data: bytes) -> bytes:
    """What `Cursor.blob` reads."""
    return len(data).to_bytes(2, "big") + data
