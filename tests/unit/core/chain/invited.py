"""Invitations and codes, with strategies that generate them."""

import base64
import hashlib
from dataclasses import replace

from hypothesis import strategies as st

from dstack_vpn.core.chain.invitation import Invitation, RegistryAddress, canonical_routes
from dstack_vpn.core.chain.invitation_code import MAX_SIGNATURE, ClaimKey, InvitationCode
from dstack_vpn.core.model import ZERO_ADDRESS

MINTER, HOLDER, CONTRACT = "0x" + "1" * 40, "0x" + "2" * 40, "0x" + "c" * 40
CLAIM_KEYS = [ClaimKey(bytes([number]) * 32) for number in (1, 2, 3)]
REGISTRY = RegistryAddress(8453, CONTRACT)
TERMS = Invitation(
    node_id="web-1",
    tags=5,
    routes=("10.0.0.0/8", "fd00::/8"),
    expires_at=2_000_000_100,
    deadline=2_000_000_000,
    minter=MINTER,
    holder=ZERO_ADDRESS,
    claimant=CLAIM_KEYS[0].address,
    salt=2**63,
)
CODE = InvitationCode(REGISTRY, TERMS, bytes(range(65)), CLAIM_KEYS[0])
FOR_HOLDER = InvitationCode(
    REGISTRY, replace(TERMS, holder=HOLDER, claimant=ZERO_ADDRESS), bytes(range(65)), None
)

_addresses = st.binary(min_size=20, max_size=20).filter(any).map(lambda raw: "0x" + raw.hex())
_routes = st.sets(st.integers(0, 255), max_size=8).flatmap(
    lambda v4: st.sets(st.integers(1, 255), max_size=8).map(
        lambda v6: canonical_routes([*(f"10.{i}.0.0/16" for i in v4), *(f"fd00:{i:x}::/32" for i in v6)])
    )
)
_terms = st.builds(
    Invitation,
    node_id=st.from_regex(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", fullmatch=True),
    tags=st.integers(0, 2**256 - 1),
    routes=_routes,
    expires_at=st.integers(0, 2**64 - 1),
    deadline=st.integers(0, 2**64 - 1),
    minter=_addresses,
    holder=_addresses,
    claimant=st.just(ZERO_ADDRESS),
    salt=st.integers(0, 2**256 - 1),
)


def _code(
    terms: Invitation, chain_id: int, contract: str, signature: bytes, key: ClaimKey | None
) -> InvitationCode:
    if key is not None:
        terms = replace(terms, holder=ZERO_ADDRESS, claimant=key.address)
    return InvitationCode(RegistryAddress(chain_id, contract), terms, signature, key)


codes = st.builds(
    _code,
    _terms,
    st.integers(1, 2**64 - 1),
    _addresses,
    st.binary(min_size=1, max_size=MAX_SIGNATURE),
    st.one_of(st.none(), st.sampled_from(CLAIM_KEYS)),
)


def sealed(content: bytes) -> str:
    """Return a code with any content and the right checksum, as another program could make it."""
    checksum = hashlib.sha256(b"dvi1_" + content).digest()[:8]
    return "dvi1_" + base64.urlsafe_b64encode(content + checksum).rstrip(b"=").decode()


def content_of(code: InvitationCode) -> bytes:
    """Return the bytes of a code without its checksum."""
    body = code.encode().removeprefix("dvi1_")
    return base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))[:-8]
