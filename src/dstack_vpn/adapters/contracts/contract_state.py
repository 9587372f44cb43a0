"""The codec of AccessRegistry's own state: tag names, policy, roles and invitations.

The contract refuses a tag name that is not a DNS label, a policy of more than 24,000 bytes and one
that is not UTF-8. A reply with such a value is therefore forged, and is refused as a whole.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from dstack_vpn.adapters.contracts import logs, signatures
from dstack_vpn.adapters.contracts.abi import Reader, topic_address, topic_uint
from dstack_vpn.core.chain.account import keccak256
from dstack_vpn.core.chain.contract import MAX_POLICY, MAX_TAGS, ContractState, Hash, Policy
from dstack_vpn.core.chain.events import (
    InvitationCancelled,
    InvitationRedeemed,
    OwnerOffered,
    OwnerUpdated,
    PauseUpdated,
    PolicyRead,
    PolicyUpdated,
    Role,
    RoleUpdated,
    TagDefined,
)
from dstack_vpn.core.model import ZERO_ADDRESS, Address, parse_tag
from dstack_vpn.errors import FormatError
from dstack_vpn.ports import Log

STATE_CALLS: Final = (
    signatures.TAGS,
    signatures.POLICY_HASH,
    signatures.MINTERS,
    signatures.POLICY_ADMINISTRATORS,
    signatures.OWNER,
    signatures.PENDING_OWNER,
    signatures.PAUSED,
)
"""The calls whose replies `parse_state` takes."""
POLICY_CALLS: Final = (signatures.POLICY_HASH, signatures.POLICY)
"""The calls whose replies `parse_policy` takes."""


def parse_state(replies: Sequence[bytes | None]) -> ContractState:
    """Return the contract's state, whose policy has no text; raises `FormatError`."""
    tags, policy, minters, administrators, owner, pending, paused = map(_reader, replies)
    hash_ = _hash(policy.uint(0))
    return ContractState(
        is_read=True,
        tag_names=_tag_names(tags),
        policy=None if hash_ is None else Policy(hash_),
        minters=_accounts(minters),
        policy_administrators=_accounts(administrators),
        owner=owner.address(0),
        pending_owner=_account(pending.address(0)),
        paused=paused.flag(0),
    )


def parse_policy(replies: Sequence[bytes | None]) -> PolicyRead:
    """Return the policy with its text; raises `FormatError`. Hashing 24,000 bytes takes 0.2 s."""
    hash_reply, text_reply = map(_reader, replies)
    hash_, raw = _hash(hash_reply.uint(0)), text_reply.blob(0, 0)
    if len(raw) > MAX_POLICY:
        raise FormatError(f"policy: {len(raw)} bytes, of at most {MAX_POLICY}")
    if hash_ is None:
        if raw:
            raise FormatError("policy: a text without a hash")
        return PolicyRead(None)
    if "0x" + keccak256(raw).hex() != hash_:
        raise FormatError("policy: the text does not have the policy's hash")
    try:
        return PolicyRead(Policy(hash_, text=raw.decode()))
    except UnicodeDecodeError:
        raise FormatError("policy: not UTF-8") from None


def _reader(reply: bytes | None) -> Reader:
    if reply is None:
        raise FormatError("the contract reverts a read")
    return Reader(reply)


def _hash(word: int) -> Hash | None:
    return f"0x{word:064x}" if word else None


def _account(address: Address) -> Address | None:
    return None if address == ZERO_ADDRESS else address


def _accounts(reply: Reader) -> tuple[Address, ...]:
    words = reply.words(0, 0)
    if any(word >> 160 for word in words):
        raise FormatError("an account is not an address")
    return tuple(f"0x{word:040x}" for word in sorted(set(words)))


def _tag_names(reply: Reader) -> tuple[str, ...]:
    names = tuple(map(_tag, reply.texts(0, 0)))
    if len(names) > MAX_TAGS or len(set(names)) < len(names):
        raise FormatError(f"tags: more than {MAX_TAGS}, or two of one name")
    return names


def _tag(raw: bytes) -> str:
    try:
        return parse_tag(raw.decode("ascii"))
    except UnicodeDecodeError:
        raise FormatError("tag: not plain ASCII") from None


# -- events ----------------------------------------------------------------------------------------


def _tag_defined(log: Log) -> TagDefined:
    (index,) = logs.indexed(log, 1)
    if topic_uint(index) >= MAX_TAGS:
        raise FormatError(f"tag: an index above {MAX_TAGS - 1}")
    return TagDefined(topic_uint(index), _tag(Reader(log.data).blob(0, 0)))


def _policy_updated(log: Log) -> PolicyUpdated:
    logs.indexed(log, 0)
    return PolicyUpdated(_hash(Reader(log.data).uint(0)))


def _role(role: Role, *, held: bool) -> logs.Decoder:
    def decode(log: Log) -> RoleUpdated:
        (account,) = logs.indexed(log, 1)
        return RoleUpdated(role, topic_address(account), held)

    return decode


def _ownership_offered(log: Log) -> OwnerOffered:
    _, account = logs.indexed(log, 2)
    return OwnerOffered(_account(topic_address(account)))


def _ownership_transferred(log: Log) -> OwnerUpdated:
    _, account = logs.indexed(log, 2)
    return OwnerUpdated(topic_address(account))


def _pause(*, paused: bool) -> logs.Decoder:
    def decode(log: Log) -> PauseUpdated:
        logs.indexed(log, 0)
        return PauseUpdated(paused)

    return decode


def _invitation_redeemed(log: Log) -> InvitationRedeemed:
    hash_, token = logs.indexed(log, 2)
    return InvitationRedeemed(hash_, topic_uint(token))


def _invitation_cancelled(log: Log) -> InvitationCancelled:
    (hash_,) = logs.indexed(log, 1)
    return InvitationCancelled(hash_)


DECODERS: Final[Mapping[str, logs.Decoder]] = {
    signatures.TAG_DEFINED: _tag_defined,
    signatures.POLICY_UPDATED: _policy_updated,
    signatures.MINTER_ADDED: _role("minter", held=True),
    signatures.MINTER_REMOVED: _role("minter", held=False),
    signatures.POLICY_ADMINISTRATOR_ADDED: _role("policy administrator", held=True),
    signatures.POLICY_ADMINISTRATOR_REMOVED: _role("policy administrator", held=False),
    signatures.OWNERSHIP_TRANSFER_INITIATED: _ownership_offered,
    signatures.OWNERSHIP_TRANSFERRED: _ownership_transferred,
    signatures.PAUSED_LOG: _pause(paused=True),
    signatures.UNPAUSED_LOG: _pause(paused=False),
    signatures.INVITATION_REDEEMED: _invitation_redeemed,
    signatures.INVITATION_CANCELLED: _invitation_cancelled,
}
"""By the first topic."""
