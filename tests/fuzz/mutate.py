"""A seeded mutator: the same seeds and number give the same inputs on all machines.

The changes are chosen so that inputs pass a decoder's first check. Bytes are taken from the input
itself, so that text remains text. Spans are overwritten as often as they are cut, so that lengths
remain consistent. Aligned words become numbers that are at the limits of codecs.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Final

CHANGES: Final = (1, 1, 1, 1, 2, 2, 3, 5)
"""The numbers of changes to an input, all with the same probability."""
_WIDTHS: Final = (1, 2, 2, 4, 8, 32)
_NUMBERS: Final = (
    0,
    1,
    2,
    7,
    16,
    31,
    32,
    33,
    64,
    127,
    128,
    255,
    256,
    4096,
    65507,
    65535,
    65536,
    2**31,
    2**32 - 1,
)
_TOKENS: Final = tuple(
    token.encode()
    for token in (
        *("0", "-1", "00", "65535", "65536", "99999999999999999999", "1e999", "0x"),
        *("NaN", "Infinity", "null", "true"),
        *("[", "]", "{", "}", '"', "'", "\\", "\\u0000", "\\ud800", ",", ":", "::", ";", "=", "#", "%"),
        *("%00", "/", "//", "@", "?", "&", "+", "-", ".", "..", " ", "\t", "\r", "\n", "\0"),
        *("é", "\u0663", "\uff11", "\u2028", "a" * 64),
        *("://", "udp://", "tls://", "tcp://", "127.0.0.1", "[::1]"),
        *("::ffff:127.0.0.1", "fe80::1%eth0", "localhost"),
    )
)  # fmt: skip

_Change = Callable[[bytearray, int, Sequence[bytes], random.Random], None]


def mutations(seeds: Sequence[bytes], seed: int) -> Iterator[bytes]:
    """Yield inputs without end, each a seed with one to five changes."""
    dice = random.Random(seed)
    while True:
        data = bytearray(dice.choice(seeds))
        for _ in range(dice.choice(CHANGES)):
            dice.choice(_KINDS)(data, int(dice.random() * (len(data) + 1)), seeds, dice)
        yield bytes(data)


def _below(limit: int, dice: random.Random) -> int:
    """Return a number from 1 to the limit, with a bias to small ones."""
    return 1 + int(dice.random() ** 2 * limit)


def _any_byte(data: bytearray, at: int, _: Sequence[bytes], dice: random.Random) -> None:
    data[at : at + 1] = dice.randbytes(1)


def _bit(data: bytearray, at: int, _: Sequence[bytes], dice: random.Random) -> None:
    if at < len(data):
        data[at] ^= 1 << int(dice.random() * 8)


def _own_byte(data: bytearray, at: int, _: Sequence[bytes], dice: random.Random) -> None:
    if at < len(data):
        data[at] = dice.choice(data)


def _near_byte(data: bytearray, at: int, _: Sequence[bytes], dice: random.Random) -> None:
    if at < len(data):
        data[at] = (data[at] + dice.choice((-2, -1, 1, 2))) & 255


def _cut(data: bytearray, at: int, _: Sequence[bytes], dice: random.Random) -> None:
    del data[at : at + _below(32, dice)]


def _insert(data: bytearray, at: int, _: Sequence[bytes], dice: random.Random) -> None:
    data[at:at] = dice.randbytes(_below(8, dice))


def _repeat(data: bytearray, at: int, _: Sequence[bytes], dice: random.Random) -> None:
    times = 1 if dice.random() < 0.98 else 1 << int(dice.random() * 12)
    data[at:at] = data[at : at + _below(64 if times == 1 else 4, dice)] * times


def _swap_in(data: bytearray, at: int, seeds: Sequence[bytes], dice: random.Random) -> None:
    """Overwrite a span with a span of another seed or of this input."""
    other = dice.choice(seeds) if dice.random() < 0.5 else data
    begin = int(dice.random() * (len(other) + 1))
    span = other[begin : begin + _below(64, dice)]
    data[at : at + len(span)] = span


def _splice(data: bytearray, at: int, seeds: Sequence[bytes], dice: random.Random) -> None:
    """Replace the end by the end of another seed, from the same or any position."""
    other = dice.choice(seeds)
    data[at:] = other[at if dice.random() < 0.5 else int(dice.random() * (len(other) + 1)) :]


def _word(data: bytearray, at: int, _: Sequence[bytes], dice: random.Random) -> None:
    width = dice.choice(_WIDTHS)
    number = dice.choice(_NUMBERS)
    if dice.random() < 0.1:
        number = -number  # near the highest value
    at -= at % width
    number &= (1 << 8 * width) - 1
    data[at : at + width] = number.to_bytes(width, "big" if dice.random() < 0.5 else "little")


def _token(data: bytearray, at: int, _: Sequence[bytes], dice: random.Random) -> None:
    """Insert a token that some decoder recognises, or overwrite with it."""
    token = dice.choice(_TOKENS)
    data[at : at + (len(token) if dice.random() < 0.5 else 0)] = token


def _line(data: bytearray, at: int, seeds: Sequence[bytes], dice: random.Random) -> None:
    """Insert a line of a seed, or replace a line by it."""
    begin, end = data.rfind(b"\n", 0, at) + 1, data.find(b"\n", at) + 1
    other = dice.choice(seeds).splitlines(keepends=True)
    if other:
        data[begin : (end or len(data)) if dice.random() < 0.5 else begin] = dice.choice(other)


_KINDS: Final[tuple[_Change, ...]] = (
    *(_any_byte, _bit, _own_byte, _own_byte, _near_byte, _near_byte, _cut, _insert),
    *(_repeat, _swap_in, _swap_in, _splice, _word, _word, _token, _token, _line),
)
