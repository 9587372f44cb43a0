"""The address of an account from its private key: secp256k1 and Keccak-256, as in Ethereum.

It is in plain Python for the same reason as `core.wireguard.x25519`: the daemon needs one address,
once, and does not ship the library that signs (42 MB). A call takes about 10 ms and is not constant
in time.
"""

from typing import Final

from dstack_vpn.core.model import Address
from dstack_vpn.errors import FormatError

_P: Final = 2**256 - 2**32 - 977
_ORDER: Final = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
_BASE: Final = (
    0x79BE667EF9DCBBAC55A06295CE870B07029BFCDB2DCE28D959F2815B16F81798,
    0x483ADA7726A3C4655DA4FBFC0E1108A8FD17B448A68554199C47D08FFB10D4B8,
)
_RATE: Final = 136
"""Bytes that Keccak-256 absorbs per block."""
_LANE: Final = 2**64 - 1


def address_of(secret: str) -> Address:
    """Return the lower-case address of the account with this key.

    Raises `FormatError`, whose text contains no part of the key.
    """
    try:
        scalar = int(secret.strip().lower().removeprefix("0x"), 16)
    except ValueError:
        scalar = 0
    if not 0 < scalar < _ORDER:
        raise FormatError("account: expected a private key of 32 bytes, in hexadecimal")
    x, y = _multiply(scalar)
    return "0x" + keccak256(x.to_bytes(32, "big") + y.to_bytes(32, "big"))[12:].hex()


def _multiply(scalar: int) -> tuple[int, int]:
    """Multiply the base point (SEC 2, 2.4.1) by the scalar, by doubling and adding."""
    found: tuple[int, int] | None = None
    point = _BASE
    while scalar:
        if scalar & 1:
            found = point if found is None else _add(found, point)
        point, scalar = _add(point, point), scalar >> 1
    assert found is not None
    return found


def _add(a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
    """Return the sum of two points that are not each other's inverse."""
    if a == b:
        slope = 3 * a[0] * a[0] * pow(2 * a[1], -1, _P) % _P
    else:
        slope = (b[1] - a[1]) * pow(b[0] - a[0], -1, _P) % _P
    x = (slope * slope - a[0] - b[0]) % _P
    return x, (slope * (a[0] - x) - a[1]) % _P


def keccak256(data: bytes) -> bytes:
    """Return the Keccak-256 hash, with the padding from before FIPS 202."""
    padded = bytearray(data + b"\x01" + bytes(-(len(data) + 1) % _RATE))
    padded[-1] |= 0x80
    lanes = [[0] * 5 for _ in range(5)]
    for start in range(0, len(padded), _RATE):
        for i in range(_RATE // 8):
            lanes[i % 5][i // 5] ^= int.from_bytes(padded[start + 8 * i : start + 8 * i + 8], "little")
        lanes = _permute(lanes)
    return b"".join(lanes[i][0].to_bytes(8, "little") for i in range(4))


def _permute(lanes: list[list[int]]) -> list[list[int]]:
    """Apply Keccak-f[1600] (the Keccak reference, 1.2) to ``lanes[x][y]``."""
    lfsr = 1
    for _ in range(24):
        parity = [a ^ b ^ c ^ d ^ e for a, b, c, d, e in lanes]
        mixed = [parity[(x + 4) % 5] ^ _turn(parity[(x + 1) % 5], 1) for x in range(5)]
        lanes = [[lane ^ mixed[x] for lane in lanes[x]] for x in range(5)]
        x, y, current = 1, 0, lanes[1][0]
        for t in range(24):
            x, y = y, (2 * x + 3 * y) % 5
            current, lanes[x][y] = lanes[x][y], _turn(current, (t + 1) * (t + 2) // 2 % 64)
        for row in range(5):
            taken = [lanes[column][row] for column in range(5)]
            for column in range(5):
                lanes[column][row] = taken[column] ^ (~taken[(column + 1) % 5] & taken[(column + 2) % 5])
        for bit in range(7):
            lfsr = (lfsr << 1) ^ (0x171 if lfsr & 0x80 else 0)
            if lfsr & 2:
                lanes[0][0] ^= 1 << ((1 << bit) - 1)
    return lanes


def _turn(lane: int, by: int) -> int:
    return (lane << by | lane >> (64 - by)) & _LANE if by else lane
