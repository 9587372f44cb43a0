"""Invitations: signing, and reading of their state in the registry."""

import secrets
from typing import Final

from dstack_vpn.adapters.admin.reading import RegistryReader
from dstack_vpn.adapters.admin.signer import Signer, signer_of, typed_hash
from dstack_vpn.adapters.chain.caller import LAG
from dstack_vpn.adapters.chain.fields import data, parse_log, sequence
from dstack_vpn.adapters.chain.jsonrpc import Json
from dstack_vpn.adapters.contracts import calls, invitations, signatures
from dstack_vpn.adapters.contracts.abi import WORD, Reader, encode
from dstack_vpn.core.chain.invitation import Invitation, RegistryAddress, claim_data
from dstack_vpn.core.chain.invitation_code import ClaimKey, InvitationCode
from dstack_vpn.core.chain.invitation_facts import InvitationFacts, RegistryRights, Use
from dstack_vpn.core.model import Address, BlockRef
from dstack_vpn.core.wireguard.keys import PublicKey
from dstack_vpn.errors import CallRevertedError, ChainError, EndpointError, FormatError

_KEY: Final = 32
_SALT: Final = 64
"""Bits. Together with the one-time key, they make equal invitations different."""
_FEW_BLOCKS: Final = 9_999
"""A range of logs that public endpoints serve."""
_VALID_SIGNATURE: Final = bytes.fromhex("1626ba7e")
"""The selector of ``isValidSignature``, and its reply for a valid signature (ERC-1271)."""


def new_claim_key() -> ClaimKey:
    """Generate a one-time key."""
    while True:
        try:
            return ClaimKey(secrets.token_bytes(_KEY))
        except FormatError:  # not a number of the curve: once in 2^127
            continue


def new_salt() -> int:
    """Return a random number for an invitation."""
    return secrets.randbits(_SALT)


def sign(
    signer: Signer, registry: RegistryAddress, terms: Invitation, claim_key: ClaimKey | None
) -> InvitationCode:
    """Sign an invitation as its minter."""
    return InvitationCode(registry, terms, signer.sign_typed(terms.typed_data(registry)), claim_key)


def hash_of(code: InvitationCode) -> bytes:
    """Return the hash that identifies an invitation in its registry."""
    return typed_hash(code.invitation.typed_data(code.registry))


def is_signed_by_account(code: InvitationCode) -> bool:
    """Return True if the minter is an account and the signature is its own."""
    found = signer_of(code.invitation.typed_data(code.registry), code.signature)
    return found == code.invitation.minter


def claim(code: InvitationCode, redeemer: Address, key: PublicKey, endpoint: str) -> bytes:
    """Return the one-time key's proof for an account, key and endpoint; empty with a holder."""
    if code.claim_key is None:
        return b""
    document = claim_data(code.registry, hash_of(code), redeemer, key, endpoint)
    return Signer(code.claim_key.reveal().hex()).sign_typed(document)


async def read_rights(reader: RegistryReader, account: Address, node_id: str) -> RegistryRights:
    """Read the state of a registry for an account that invites, and for a node id."""
    return await _rights(reader, await reader.session.head(), account, node_id)


async def _rights(reader: RegistryReader, head: BlockRef, account: Address, node_id: str) -> RegistryRights:
    token, *replies = await reader.replies(
        head,
        calls.token_id_by_node_id(node_id),
        invitations.is_minter(account),
        signatures.OWNER,
        signatures.PAUSED,
        signatures.TAGS,
    )
    try:
        is_minter, owner, paused = [Reader(_expected(reply)) for reply in replies[:-1]]
        return RegistryRights(
            head.timestamp,
            is_minter.flag(0) or owner.address(0) == account,
            paused.flag(0),
            tuple(invitations.parse_tags(_expected(replies[-1]))),
            None if token is None else Reader(token).uint(0),
        )
    except FormatError as error:
        raise EndpointError(f"the registry's reply is malformed: {error}") from error


async def read_facts(reader: RegistryReader, code: InvitationCode) -> InvitationFacts:
    """Read the state of an invitation."""
    head, terms = await reader.session.head(), code.invitation
    return InvitationFacts(
        await _rights(reader, head, terms.minter, terms.node_id),
        await read_use(reader, hash_of(code)),
        await _is_signed(reader, head, code),
    )


async def read_use(reader: RegistryReader, invitation_hash: bytes) -> Use:
    """Read the use of an invitation."""
    head = await reader.session.head()
    (reply,) = await reader.replies(head, invitations.is_used(invitation_hash))
    try:
        used = Reader(_expected(reply)).flag(0)
    except FormatError as error:
        raise EndpointError(f"the registry's reply is malformed: {error}") from error
    return await _how_used(reader, head, invitation_hash) if used else Use.OPEN


async def _how_used(reader: RegistryReader, head: BlockRef, invitation_hash: bytes) -> Use:
    """Find the log of the use: in all blocks, else in the newest ones. Absorbs `ChainError`."""
    topics: Json = [
        [signatures.INVITATION_REDEEMED, signatures.INVITATION_CANCELLED],
        "0x" + invitation_hash.hex(),
    ]
    for first in (0, max(0, head.number - _FEW_BLOCKS)):
        query: dict[str, Json] = {
            "address": reader.session.identity.contract,
            "topics": topics,
            "fromBlock": hex(first),
            "toBlock": hex(head.number),
        }
        try:
            found = [
                parse_log(log) for log in sequence(await reader.caller.call("eth_getLogs", query), "logs")
            ]
        except ChainError:
            continue
        kinds = {log.topics[0] for log in found if log.topics}
        if signatures.INVITATION_REDEEMED in kinds:
            return Use.REDEEMED
        if signatures.INVITATION_CANCELLED in kinds:
            return Use.CANCELLED
    return Use.USED


async def _is_signed(reader: RegistryReader, head: BlockRef, code: InvitationCode) -> bool:
    """Check the signature as OpenZeppelin's SignatureChecker does: code decides the rule."""
    minter, at = code.invitation.minter, hex(head.number)
    if not data(await reader.caller.call("eth_getCode", minter, at, lag=LAG), "code"):
        return is_signed_by_account(code)
    question = _VALID_SIGNATURE + encode(int.from_bytes(hash_of(code), "big"), code.signature)
    call: Json = {"to": minter, "data": "0x" + question.hex()}
    try:
        reply = data(await reader.caller.call("eth_call", call, at, lag=LAG), "call result")
    except CallRevertedError:
        return False
    return reply[:WORD] == _VALID_SIGNATURE + bytes(WORD - len(_VALID_SIGNATURE))


def _expected(reply: bytes | None) -> bytes:
    if reply is None:
        raise EndpointError("the registry reverted a query")
    return reply
