"""WireGuard keys: 32 bytes of Curve25519, written as canonical base64 (44 characters)."""

import base64
import binascii
import re
from typing import Final, Self

from dstack_vpn.errors import FormatError

KEY_LENGTH: Final = 32

# Canonical: the last character before the padding carries two zero bits.
_CANONICAL: Final = re.compile(r"[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=", re.ASCII)


def _decode(text: str) -> bytes:
    """Decode a key's canonical base64, or raise `FormatError` without quoting the text."""
    if not _CANONICAL.fullmatch(text):
        raise FormatError("not a WireGuard key: expected 44 characters of base64 for 32 bytes")
    return binascii.a2b_base64(text)


class PublicKey(bytes):
    """A peer's public key; compares and hashes as its 32 bytes, prints as base64."""

    __slots__ = ()

    def __new__(cls, raw: bytes) -> Self:
        """Take the 32 bytes; raises `FormatError` for another length and for the all-zero key."""
        if len(raw) != KEY_LENGTH:
            raise FormatError(f"a WireGuard key has {KEY_LENGTH} bytes, not {len(raw)}")
        if not any(raw):
            raise FormatError("the all-zero key is not a WireGuard key")
        return super().__new__(cls, raw)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse canonical base64; raises `FormatError`."""
        return cls(_decode(text))

    def __str__(self) -> str:
        return base64.b64encode(self).decode("ascii")

    def __repr__(self) -> str:
        return f"PublicKey({self})"


class PrivateKey:
    """A private key that repr, logs and tracebacks do not show; only ``reveal()`` returns it."""

    __slots__ = ("__raw",)

    def __init__(self, raw: bytes) -> None:
        if len(raw) != KEY_LENGTH:
            raise FormatError(f"a WireGuard key has {KEY_LENGTH} bytes, not {len(raw)}")
        self.__raw = bytearray(raw)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse canonical base64; raises `FormatError`, which never quotes the text."""
        return cls(_decode(text))

    def reveal(self) -> bytes:
        """Return the 32 secret bytes, for the device and for key derivation only."""
        return bytes(self.__raw)

    def wipe(self) -> None:
        """Overwrite this object's bytes; copies that `reveal` returned are not affected."""
        self.__raw[:] = bytes(KEY_LENGTH)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PrivateKey) and self.__raw == other.__raw

    def __hash__(self) -> int:
        return hash(bytes(self.__raw))

    def __repr__(self) -> str:
        return "PrivateKey(***)"

    def __reduce__(self) -> str:
        raise TypeError("a private key is not serialized")
