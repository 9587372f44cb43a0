"""A reading of a registry contract: its roles, its state, and the number of its nodes."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from dstack_vpn.adapters.admin.reading import RegistryReader
from dstack_vpn.adapters.contracts import AccessRegistry, AccessRegistryV1, invitations, signatures
from dstack_vpn.adapters.contracts.abi import Reader
from dstack_vpn.core.chain.registry import Registry
from dstack_vpn.core.model import ZERO_ADDRESS, Address
from dstack_vpn.errors import EndpointError, FormatError

_T = TypeVar("_T")

_REVISION_BITS: Final = 64


@dataclass(frozen=True, slots=True)
class NodeCounts:
    """The number of nodes by their status."""

    active: int
    """With a key and not revoked; some may be expired."""
    awaiting_key: int
    revoked: int

    @classmethod
    def of(cls, registry: Registry) -> "NodeCounts":
        """Count the nodes of a registry."""
        nodes = registry.nodes.values()
        live = [node for node in nodes if node.active]
        waiting = sum(node.public_key is None for node in live)
        return cls(len(live) - waiting, waiting, len(nodes) - len(live))


@dataclass(frozen=True, slots=True)
class Overview:
    """A registry contract after one block. None: the contract does not have that information."""

    abi: str
    version: int | None
    """The version of our contract."""
    contract: Address
    chain_id: int
    block: int
    owner: Address | None
    pending_owner: Address | None
    """None also if the contract is not offered to any account."""
    minters: tuple[Address, ...] | None
    policy_administrators: tuple[Address, ...] | None
    paused: bool | None
    revision: int | None
    policy_hash: str | None
    """None also without a policy."""
    tags: int | None
    """The number of tags."""
    nodes: NodeCounts | None


async def read_overview(reader: RegistryReader) -> Overview:
    """Read a registry of any supported version. Raises `ChainError`."""
    head, version = await reader.session.head(), version_of(reader)
    ours, current = version is not None, version == 2
    questions: dict[str, bytes] = {
        "owner": signatures.OWNER,
        **({"pending_owner": signatures.PENDING_OWNER, "paused": signatures.PAUSED} if ours else {}),
        **(_CURRENT if current else {}),
    }
    found = await reader.replies(head, *questions.values())
    replies = _Replies(dict(zip(questions, found, strict=True)), required=ours)
    policy_hash = replies.get("policy_hash", lambda reply: reply.uint(0))
    pending = replies.get("pending_owner", lambda reply: reply.address(0))
    overview = Overview(
        abi=reader.abi.name,
        version=version,
        contract=reader.session.identity.contract,
        chain_id=reader.session.identity.chain_id,
        block=head.number,
        owner=replies.get("owner", lambda reply: reply.address(0)),
        pending_owner=None if pending == ZERO_ADDRESS else pending,
        minters=replies.get("minters", _addresses),
        policy_administrators=replies.get("policy_administrators", _addresses),
        paused=replies.get("paused", lambda reply: reply.flag(0)),
        revision=replies.get("revision", lambda reply: reply.uint(0, _REVISION_BITS)),
        policy_hash=f"0x{policy_hash:064x}" if policy_hash else None,
        tags=replies.count_tags(),
        nodes=None,
    )
    if not reader.abi.page_size:
        return overview
    return replace(overview, nodes=NodeCounts.of((await reader.everything()).registry))


_CURRENT: Final = {
    "minters": signatures.MINTERS,
    "policy_administrators": signatures.POLICY_ADMINISTRATORS,
    "revision": signatures.REVISION,
    "policy_hash": signatures.POLICY_HASH,
    "tags": signatures.TAGS,
}


def version_of(reader: RegistryReader) -> int | None:
    """Return the version of our contract; None for another one."""
    if isinstance(reader.abi, AccessRegistryV1):
        return 1
    return 2 if isinstance(reader.abi, AccessRegistry) else None


async def read_accounts(reader: RegistryReader, question: bytes) -> tuple[tuple[Address, ...], int]:
    """Return the accounts with a role, and the block. Raises `ChainError`."""
    head = await reader.session.head()
    (reply,) = await reader.replies(head, question)
    accounts = _Replies({"accounts": reply}, required=True).get("accounts", _addresses)
    assert accounts is not None
    return accounts, head.number


@dataclass(frozen=True, slots=True)
class _Replies:
    """The replies by name; None is a revert."""

    found: dict[str, bytes | None]
    required: bool
    """True if a missing or malformed reply is the endpoint's fault."""

    def get(self, name: str, parse: Callable[[Reader], _T]) -> _T | None:
        """Return a parsed reply; None if it was not requested. Raises `EndpointError`."""
        reply = self.found.get(name)
        if reply is None:
            if self.required and name in self.found:
                raise EndpointError(f"the registry reverted the query for {name}")
            return None
        try:
            return parse(Reader(reply))
        except FormatError as error:
            if not self.required:
                return None
            raise EndpointError(f"the registry's reply for {name} is malformed: {error}") from error

    def count_tags(self) -> int | None:
        """Return the number of tags. Raises `EndpointError`."""
        reply = self.found.get("tags")
        return self.get("tags", lambda _: len(invitations.parse_tags(reply or b"")))


def _addresses(reply: Reader) -> tuple[Address, ...]:
    """Return a list of accounts in ascending order; raises `FormatError`."""
    words = reply.words(0, 0)
    if any(word >> 160 for word in words):
        raise FormatError("ABI data: an address of more than 160 bits")
    return tuple(f"0x{word:040x}" for word in sorted(words))
