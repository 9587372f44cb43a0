"""Calldata and replies of the invitations of AccessRegistry."""

from dstack_vpn.adapters.contracts import signatures
from dstack_vpn.adapters.contracts.abi import WORD, Reader, address_word, encode
from dstack_vpn.core.chain.contract import MAX_TAGS
from dstack_vpn.core.chain.invitation import Invitation, check_label, route_word
from dstack_vpn.core.model import Address
from dstack_vpn.core.wireguard.keys import PublicKey
from dstack_vpn.errors import FormatError


def redeem(invitation: Invitation, signature: bytes, key: PublicKey, endpoint: str, claim: bytes) -> bytes:
    """Encode the redemption of an invitation; ``claim`` is empty with a holder."""
    parts = (_tuple(invitation), *map(_blob, (signature, str(key).encode(), endpoint.encode(), claim)))
    return signatures.REDEEM + _assemble(parts)


def cancel(invitation_hash: bytes) -> bytes:
    """Encode the cancellation of an invitation."""
    return signatures.CANCEL_INVITATION + invitation_hash


def is_used(invitation_hash: bytes) -> bytes:
    """Encode the query if an invitation was redeemed or cancelled."""
    return signatures.IS_INVITATION_USED + invitation_hash


def is_minter(account: Address) -> bytes:
    """Encode the query if an account has the minter role; the contract's owner needs none."""
    return signatures.IS_MINTER + encode(address_word(account))


def parse_tags(reply: bytes) -> list[str | None]:
    """Return the names of the tags in the order of their bits; None for a malformed name.

    Raises `FormatError` for a malformed reply.
    """
    data = Reader(reply)
    bases = data.tuples(0, 0)
    if len(bases) > MAX_TAGS:
        raise FormatError(f"tags: {len(bases)}, of at most {MAX_TAGS}")
    return [_label(data.take(base + WORD, data.uint(base))) for base in bases]


def _label(raw: bytes) -> str | None:
    try:
        return check_label(raw.decode("ascii", "replace"), "tag")
    except FormatError:
        return None


def _tuple(invitation: Invitation) -> bytes:
    words = tuple(map(route_word, invitation.routes))
    return _assemble(
        (
            _blob(invitation.node_id.encode()),
            invitation.tags,
            len(words).to_bytes(WORD, "big") + b"".join(words),
            invitation.expires_at,
            invitation.deadline,
            *map(address_word, (invitation.minter, invitation.holder, invitation.claimant)),
            invitation.salt,
        )
    )


def _blob(raw: bytes) -> bytes:
    return len(raw).to_bytes(WORD, "big") + raw + bytes(-len(raw) % WORD)


def _assemble(parts: tuple[int | bytes, ...]) -> bytes:
    """Encode a tuple: numbers as words, encoded dynamic values behind their offsets."""
    heads, tail = b"", b""
    for part in parts:
        value = part if isinstance(part, int) else WORD * len(parts) + len(tail)
        heads += value.to_bytes(WORD, "big")
        tail += b"" if isinstance(part, int) else part
    return heads + tail
