"""A decoder and encoder for the parts of the Solidity ABI that a registry uses: 1 to 5 µs per log.

The data comes from an endpoint and contains text from any account, so offsets and lengths are
hostile: one may point past the end, or a thousand may point at the same megabyte. A `Reader`
therefore checks every slice against the data and returns no byte twice. The canonical encoding
never shares bytes, so the total of all reads can't exceed the size of the data.

Source: the Solidity documentation, "Contract ABI Specification".
"""

from typing import Final

from dstack_vpn.errors import FormatError

WORD: Final = 32
"""The size of an ABI slot, in bytes."""
SELECTOR: Final = 4
"""The size of a function's or an error's selector, in bytes."""

_TOPIC_LENGTH: Final = 2 + 2 * WORD
_ADDRESS_PADDING: Final = "0" * 24


class Reader:
    """Reads ABI-encoded data. Every method raises `FormatError` for data that is not canonical.

    ``at`` is a byte position in the data; ``base`` is the position of the tuple to which an offset
    is relative.
    """

    __slots__ = ("_data", "_left")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._left = len(data)

    def take(self, at: int, size: int) -> bytes:
        """Return ``size`` bytes, each of which is read only once."""
        end = at + size
        if end > len(self._data):
            raise FormatError("ABI data: shorter than declared")
        self._left -= size
        if self._left < 0:
            raise FormatError("ABI data: parts overlap")
        return self._data[at:end]

    def uint(self, at: int, bits: int = 256) -> int:
        """Return an unsigned integer of at most ``bits`` bits."""
        value = int.from_bytes(self.take(at, WORD), "big")
        if value >> bits:
            raise FormatError(f"ABI data: an integer of more than {bits} bits")
        return value

    def flag(self, at: int) -> bool:
        """Return a boolean."""
        return self.uint(at, 1) == 1

    def address(self, at: int) -> str:
        """Return an address, as ``0x`` and 40 lower-case digits."""
        return f"0x{self.uint(at, 160):040x}"

    def blob(self, base: int, at: int) -> bytes:
        """Return the content of the string or bytes whose offset is at ``at``."""
        start = base + self.uint(at)
        return self.take(start + WORD, self.uint(start))

    def texts(self, base: int, at: int) -> list[bytes]:
        """Return the strings or bytes of the array whose offset is at ``at``."""
        start = base + self.uint(at)
        first = start + WORD
        count = self.uint(start)
        if first + count * WORD > len(self._data):
            raise FormatError("ABI data: shorter than declared")
        return [self.blob(first, first + WORD * i) for i in range(count)]

    def words(self, base: int, at: int) -> list[int]:
        """Return the words of the array whose offset is at ``at``."""
        start = base + self.uint(at)
        count = self.uint(start)
        array = self.take(start + WORD, count * WORD)
        return [int.from_bytes(array[i : i + WORD], "big") for i in range(0, len(array), WORD)]

    def tuples(self, base: int, at: int) -> list[int]:
        """Return the bases of the dynamic tuples in the array whose offset is at ``at``."""
        start = base + self.uint(at)
        count = self.uint(start)
        first = start + WORD
        if first + count * WORD > len(self._data):
            raise FormatError("ABI data: shorter than declared")
        return [first + self.uint(first + WORD * i) for i in range(count)]


def topic_uint(topic: str) -> int:
    """Return the unsigned integer in a log's topic (``0x`` and 64 digits); raises `FormatError`."""
    try:
        return int(topic, 16)
    except ValueError:
        raise FormatError("a log topic is not hexadecimal") from None


def topic_address(topic: str) -> str:
    """Return the address in a log's topic (``0x``, 64 lower-case digits); raises `FormatError`."""
    if len(topic) != _TOPIC_LENGTH or topic[2:26] != _ADDRESS_PADDING:
        raise FormatError("a log topic is not an address")
    return "0x" + topic[26:]


def encode(*values: int | str | bytes) -> bytes:
    """Encode arguments: integers, booleans and addresses (as integers) as words, others as dynamic.

    Raises `OverflowError` for a negative integer.
    """
    heads: list[bytes] = []
    tail = b""
    for value in values:
        if isinstance(value, int):
            heads.append(value.to_bytes(WORD, "big"))
            continue
        raw = value.encode() if isinstance(value, str) else value
        heads.append((WORD * len(values) + len(tail)).to_bytes(WORD, "big"))
        tail += len(raw).to_bytes(WORD, "big") + raw + bytes(-len(raw) % WORD)
    return b"".join(heads) + tail


def address_word(address: str) -> int:
    """Convert an address (``0x`` and 40 digits of any case) for `encode`; raises `FormatError`."""
    try:
        value = int(address, 16)
    except ValueError:
        value = -1
    if len(address) != 42 or not address.startswith("0x") or value < 0 or "_" in address:
        raise FormatError("not an address: expected 0x and 40 hexadecimal digits")
    return value
