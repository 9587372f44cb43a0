"""`AccessRegistry.sol` as a Python state machine: its state, its events, and its replies."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from eth_abi.abi import decode, encode
from eth_utils.crypto import keccak

from dstack_vpn.adapters.contracts import signatures
from dstack_vpn.core.model import ZERO_ADDRESS

_NODE = "(uint256,address,string,string,string,string,uint64,uint64,uint64,bool,bool,uint256,bytes32[])"


class RevertError(Exception):
    """The contract reverts."""


@dataclass(frozen=True)
class Token:
    id: int
    owner: str
    node_id: str
    key: str
    endpoint: str = ""
    uri: str = ""
    created_at: int = 0
    key_block: int = 0
    expires_at: int = 0
    revoked: bool = False
    tags: int = 0
    routes: tuple[bytes, ...] = ()

    def view(self) -> tuple[Any, ...]:
        """Return the token as a ``NodeView``."""
        active = not self.revoked and bool(self.key)
        awaiting = not self.revoked and not self.key
        return (
            *(self.id, self.owner, self.node_id, self.key, self.endpoint, self.uri),
            *(self.created_at, self.key_block, self.expires_at, active, awaiting),
            *(self.tags, self.routes),
        )


Tokens = Mapping[int, Token]


@dataclass(frozen=True)
class Contract:
    """The state of the contract itself."""

    tags: tuple[str, ...] = ()
    policy: str = ""
    policy_hash: bytes = bytes(32)
    minters: tuple[str, ...] = ()
    policy_administrators: tuple[str, ...] = ()
    owner: str = "0x" + "01" * 20
    pending_owner: str = ZERO_ADDRESS
    paused: bool = False


@dataclass(frozen=True)
class Emitted:
    """An event that is not in a block yet."""

    topics: tuple[str, ...]
    data: bytes = b""
    effect: Callable[[Contract], Contract] = lambda contract: contract
    """The change of the contract's own state."""


Change = tuple[dict[int, Token], list[Emitted]]
Transaction = Callable[[Tokens, int, int], Change]
"""Returns the new tokens and the events, from the tokens, a block number and a timestamp."""


def _word(value: int | str) -> str:
    return "0x" + f"{int(value, 16) if isinstance(value, str) else value:064x}"


def _text(text: str) -> bytes:
    return bytes(encode(["string"], [text]))


def _alive(tokens: Tokens, token: int) -> Token:
    if token not in tokens or tokens[token].revoked:
        raise RevertError
    return tokens[token]


def mint(owner: str, node_id: str, key: str, uri: str = "") -> Transaction:
    def run(tokens: Tokens, block: int, now: int) -> Change:
        if any(t.node_id == node_id and not t.revoked for t in tokens.values()):
            raise RevertError
        token = len(tokens) + 1
        new = Token(token, owner, node_id, key, uri=uri, created_at=now, key_block=block)
        granted = (signatures.NODE_ACCESS_GRANTED, _word(token), _word(owner))
        return {**tokens, token: new}, [
            Emitted((signatures.TRANSFER, _word(ZERO_ADDRESS), _word(owner), _word(token))),
            Emitted(granted, bytes(encode(["string", "string"], [node_id, key]))),
        ]

    return run


def revoke(token: int) -> Transaction:
    def run(tokens: Tokens, block: int, now: int) -> Change:
        old = _alive(tokens, token)
        topics = (signatures.NODE_ACCESS_REVOKED, _word(token))
        return {**tokens, token: replace(old, revoked=True)}, [Emitted(topics, _text(old.node_id))]

    return run


def transfer(token: int, to: str) -> Transaction:
    def run(tokens: Tokens, block: int, now: int) -> Change:
        old = _alive(tokens, token)
        new = replace(old, owner=to, key="", endpoint="", key_block=0)
        parties = (_word(old.owner), _word(to))
        return {**tokens, token: new}, [
            Emitted((signatures.TRANSFER, *parties, _word(token))),
            Emitted((signatures.NODE_ACCESS_TRANSFERRED, _word(token), *parties)),
        ]

    return run


def update_key(token: int, key: str) -> Transaction:
    def run(tokens: Tokens, block: int, now: int) -> Change:
        old = _alive(tokens, token)
        return {**tokens, token: replace(old, key=key, key_block=block)}, [
            Emitted((signatures.PUBLIC_KEY_UPDATED, _word(old.owner)), _text(key)),
            Emitted((signatures.NODE_KEY_UPDATED, _word(token)), _text(key)),
        ]

    return run


def set_endpoint(token: int, endpoint: str) -> Transaction:
    def run(tokens: Tokens, block: int, now: int) -> Change:
        new = replace(_alive(tokens, token), endpoint=endpoint)
        topics = (signatures.NODE_ENDPOINT_UPDATED, _word(token))
        return {**tokens, token: new}, [Emitted(topics, _text(endpoint))]

    return run


def set_expiry(token: int, expires_at: int) -> Transaction:
    def run(tokens: Tokens, block: int, now: int) -> Change:
        new = replace(_alive(tokens, token), expires_at=expires_at)
        topics = (signatures.NODE_EXPIRY_UPDATED, _word(token))
        return {**tokens, token: new}, [Emitted(topics, bytes(encode(["uint64"], [expires_at])))]

    return run


def set_tags(token: int, mask: int) -> Transaction:
    def run(tokens: Tokens, block: int, now: int) -> Change:
        new = replace(_alive(tokens, token), tags=mask)
        topics = (signatures.NODE_TAGS_UPDATED, _word(token))
        return {**tokens, token: new}, [Emitted(topics, bytes(encode(["uint256"], [mask])))]

    return run


def define_tag(index: int, name: str) -> Transaction:
    topics = (signatures.TAG_DEFINED, _word(index))
    return emit(Emitted(topics, _text(name), lambda old: replace(old, tags=(*old.tags, name))))


def set_policy(text: str) -> Transaction:
    hash_ = keccak(text=text) if text else bytes(32)
    return emit(
        Emitted((signatures.POLICY_UPDATED,), hash_, lambda old: replace(old, policy=text, policy_hash=hash_))
    )


def add_minter(account: str) -> Transaction:
    topics = (signatures.MINTER_ADDED, _word(account))
    return emit(Emitted(topics, b"", lambda old: replace(old, minters=(*old.minters, account))))


def emit(*events: Emitted) -> Transaction:
    """Return a transaction with any events, also those that the real contract never emits."""
    return lambda tokens, block, now: (dict(tokens), list(events))


def _revision(tokens: Tokens, contract: Contract) -> int:
    """Return a number that differs with any change; unlike the contract's, it does not count."""
    content = repr((list(tokens.values()), contract))
    digest = hashlib.blake2b(content.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def storage_root(tokens: Tokens, contract: Contract) -> str:
    """Return a hash of everything that the contract stores, in place of the root of its trie."""
    content = repr(([tokens[token] for token in sorted(tokens)], contract))
    return "0x" + hashlib.sha256(content.encode()).hexdigest()


_OWN = {
    signatures.TAGS: ("string[]", "tags"),
    signatures.POLICY: ("string", "policy"),
    signatures.POLICY_HASH: ("bytes32", "policy_hash"),
    signatures.MINTERS: ("address[]", "minters"),
    signatures.POLICY_ADMINISTRATORS: ("address[]", "policy_administrators"),
    signatures.OWNER: ("address", "owner"),
    signatures.PENDING_OWNER: ("address", "pending_owner"),
    signatures.PAUSED: ("bool", "paused"),
}
"""The functions that read the contract's own state: the type and the field."""


def answer(tokens: Tokens, contract: Contract, calldata: bytes) -> bytes:
    """Return the contract's reply to an ``eth_call``; raises `RevertError`."""
    selector, arguments = calldata[:4], calldata[4:]
    if selector in _OWN:
        kind, field = _OWN[selector]
        return bytes(encode([kind], [getattr(contract, field)]))
    if selector == signatures.SUPPORTS_INTERFACE:
        return bytes(encode(["bool"], [arguments[:4] == signatures.ACCESS_REGISTRY_ID]))
    if selector == signatures.GET_NODE:
        (token,) = decode(["uint256"], arguments)
        if token not in tokens:
            raise RevertError
        return bytes(encode([_NODE], [tokens[token].view()]))
    if selector == signatures.GET_NODES:
        offset, limit = decode(["uint256", "uint256"], arguments)
        page = [token.view() for token in list(tokens.values())[offset : offset + limit]]
        return bytes(encode([_NODE + "[]", "uint256"], [page, len(tokens)]))
    if selector == signatures.REVISION:
        return bytes(encode(["uint64"], [_revision(tokens, contract)]))
    raise RevertError
