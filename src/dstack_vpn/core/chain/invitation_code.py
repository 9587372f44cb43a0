"""The code of an invitation: one line of URL-safe characters that can be pasted.

    dvi1_ base64url(content, checksum)

The content is the chain, the contract, the invitation, the minter's signature, and either the
holder or the one-time key. The checksum is the beginning of the SHA-256 hash of all before it. It
finds typing errors without a network; the minter's signature protects against forgery. A code has
exactly one form: every other text is refused.

A code with a one-time key is a secret: it can be redeemed by any account that has it.
"""

import base64
import binascii
import hashlib
import ipaddress
import re
from dataclasses import dataclass, field
from typing import Final, Self

from dstack_vpn.core.chain.account import address_of
from dstack_vpn.core.chain.invitation import MAX_ROUTES, Invitation, RegistryAddress
from dstack_vpn.core.model import ZERO_ADDRESS, Address, Cidr
from dstack_vpn.errors import FormatError

VERSION: Final = 1
MAX_SIGNATURE: Final = 1024
"""Bytes. An account's signature has 65; a contract's may contain those of many owners."""
MAX_CODE: Final = 2080
"""Characters of the longest code."""
_HEAD: Final = f"dvi{VERSION}_"
_ANY_HEAD: Final = re.compile(r"dvi([0-9]{1,4})_", re.ASCII)
_BODY: Final = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
_CHECKSUM: Final = 8
"""Bytes. Of random alterations, one in 2^64 is not found."""
_KEY: Final = 32


class ClaimKey:
    """The private part of a one-time key. Repr, logs and tracebacks do not show it."""

    __slots__ = ("__raw", "address")

    def __init__(self, raw: bytes) -> None:
        """Take the 32 bytes; raises `FormatError` if they are not a key of secp256k1."""
        if len(raw) != _KEY:
            raise FormatError("invitation: the one-time key does not have 32 bytes")
        self.__raw = bytes(raw)
        self.address: Address = address_of(self.__raw.hex())

    def reveal(self) -> bytes:
        """Return the 32 secret bytes, for the code and for signing only."""
        return self.__raw

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ClaimKey) and self.__raw == other.__raw

    def __hash__(self) -> int:
        return hash(self.__raw)

    def __repr__(self) -> str:
        return "ClaimKey(***)"

    def __reduce__(self) -> str:
        raise TypeError("a one-time key is not serialized")


@dataclass(frozen=True, slots=True)
class InvitationCode:
    """A signed invitation, with all that its redemption needs."""

    registry: RegistryAddress
    invitation: Invitation
    signature: bytes = field(repr=False)
    claim_key: ClaimKey | None
    """None if the invitation names a holder."""

    def __post_init__(self) -> None:
        if not 0 < self.registry.chain_id < 2**64:
            raise FormatError("invitation: the chain id is not between 1 and 2^64")
        if not 0 < len(self.signature) <= MAX_SIGNATURE:
            raise FormatError(f"invitation: the signature does not have 1 to {MAX_SIGNATURE} bytes")
        claimant = ZERO_ADDRESS if self.claim_key is None else self.claim_key.address
        if self.invitation.claimant != claimant:
            raise FormatError("invitation: the one-time key is another one")

    def encode(self) -> str:
        """Return the code."""
        content = self._content()
        return _HEAD + base64.urlsafe_b64encode(content + _checksum(content)).rstrip(b"=").decode("ascii")

    def _content(self) -> bytes:
        terms = self.invitation
        who = bytes([0]) + _raw(terms.holder) if self.claim_key is None else b"\1" + self.claim_key.reveal()
        return b"".join(
            (
                self.registry.chain_id.to_bytes(8, "big"),
                _raw(self.registry.contract),
                _short(terms.node_id.encode("ascii")),
                _number(terms.tags),
                bytes([len(terms.routes)]),
                *map(_route, terms.routes),
                terms.expires_at.to_bytes(8, "big"),
                terms.deadline.to_bytes(8, "big"),
                _raw(terms.minter),
                who,
                _number(terms.salt),
                len(self.signature).to_bytes(2, "big"),
                self.signature,
            )
        )

    @classmethod
    def decode(cls, text: str) -> Self:
        """Parse a code; blanks and line breaks around it are accepted.

        Raises `FormatError`, whose text contains no part of the code.
        """
        found = cls._parse(_checked(text))
        if found.encode() != text.strip():
            raise FormatError("invitation code: its content is not in the canonical form")
        return found

    @classmethod
    def _parse(cls, content: bytes) -> Self:
        read = _Content(content)
        registry = RegistryAddress(read.number(8), read.address())
        node_id, tags = read.text(), read.short_number()
        routes = read.routes()
        expires_at, deadline, minter = read.number(8), read.number(8), read.address()
        holder, claim_key = ZERO_ADDRESS, None
        match read.number(1):
            case 0:
                holder = read.address()
            case 1:
                claim_key = ClaimKey(read.take(_KEY))
            case _:
                raise FormatError("invitation code: it names neither a holder nor a one-time key")
        claimant = ZERO_ADDRESS if claim_key is None else claim_key.address
        salt = read.short_number()
        signature = read.take(read.number(2))
        read.end()
        invitation = Invitation(node_id, tags, routes, expires_at, deadline, minter, holder, claimant, salt)
        return cls(registry, invitation, signature, claim_key)


def _checked(text: str) -> bytes:
    """Return a code's content after the check of its form and checksum; raises `FormatError`."""
    if len(text) > 2 * MAX_CODE or len(text := text.strip()) > MAX_CODE:
        raise FormatError(f"invitation code: longer than {MAX_CODE} characters: paste the code only")
    head = _ANY_HEAD.match(text)
    if head is None:
        raise FormatError(f"invitation code: it does not begin with {_HEAD!r}: copy the whole code")
    if head[0] != _HEAD:
        raise FormatError(
            f"invitation code: its version {head[1]} is unknown here (expected {VERSION}): use the version "
            "of dstack-vpn that made it, or copy the code again"
        )
    body = text.removeprefix(_HEAD)
    if not _BODY.fullmatch(body):
        raise FormatError(
            "invitation code: it contains a character that no code has (expected A-Z a-z 0-9 - _): "
            "copy the code again"
        )
    try:
        raw = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
    except binascii.Error:
        raw = b""
    content, checksum = raw[:-_CHECKSUM], raw[-_CHECKSUM:]
    if _checksum(content) != checksum:
        raise FormatError(
            "invitation code: its checksum is wrong: a character is mistyped, missing or added: copy the "
            "code again"
        )
    return content


def _checksum(content: bytes) -> bytes:
    return hashlib.sha256(_HEAD.encode("ascii") + content).digest()[:_CHECKSUM]


def _raw(address: Address) -> bytes:
    return bytes.fromhex(address.removeprefix("0x"))


def _short(raw: bytes) -> bytes:
    return bytes([len(raw)]) + raw


def _number(value: int) -> bytes:
    return _short(value.to_bytes((value.bit_length() + 7) // 8, "big"))


def _route(route: Cidr) -> bytes:
    network = ipaddress.ip_network(route)
    return bytes([network.version, network.prefixlen]) + network.network_address.packed


class _Content:
    """Reads a code's content. Every method raises `FormatError` after its end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, size: int) -> bytes:
        """Return the next ``size`` bytes."""
        found = self._data[self._at : self._at + size]
        if len(found) != size:
            raise FormatError("invitation code: it ends too early")
        self._at += size
        return found

    def number(self, size: int) -> int:
        """Return a number of ``size`` bytes."""
        return int.from_bytes(self.take(size), "big")

    def short_number(self) -> int:
        """Return a number after the byte with its length."""
        return self.number(self.number(1))

    def address(self) -> Address:
        """Return an address."""
        return "0x" + self.take(20).hex()

    def text(self) -> str:
        """Return a text after the byte with its length."""
        return self.take(self.number(1)).decode("ascii", "replace")

    def routes(self) -> tuple[Cidr, ...]:
        """Return the routes after the byte with their number."""
        count = self.number(1)
        if count > MAX_ROUTES:
            raise FormatError(f"routes: {count}, but a node has at most {MAX_ROUTES}")
        return tuple(self._route() for _ in range(count))

    def _route(self) -> Cidr:
        family, prefix = self.number(1), self.number(1)
        if family not in {4, 6}:
            raise FormatError("invitation code: a route is neither IPv4 nor IPv6")
        packed = self.take(4 if family == 4 else 16)
        try:
            return str(ipaddress.ip_network((packed, prefix)))
        except ValueError:
            raise FormatError("invitation code: a route is not a network") from None

    def end(self) -> None:
        """Check that nothing is left."""
        if self._at != len(self._data):
            raise FormatError("invitation code: it continues after its end")
