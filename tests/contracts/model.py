"""A plain model of the registry contract's documented behaviour."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Network, IPv6Network, ip_interface
from typing import Any

from eth_utils.crypto import keccak
from tests.contracts.evm import OWNER, ZERO, key

RAISING = {
    "NodeAccessGranted",
    "NodeAccessRevoked",
    "NodeAccessTransferred",
    "NodeKeyUpdated",
    "NodeEndpointUpdated",
    "NodeExpiryUpdated",
    "NodeTagsUpdated",
    "NodeRoutesUpdated",
    "TagDefined",
    "PolicyUpdated",
    "InvitationRedeemed",
    "InvitationCancelled",
    "MinterAdded",
    "MinterRemoved",
    "PolicyAdministratorAdded",
    "PolicyAdministratorRemoved",
    "OwnershipTransferInitiated",
    "OwnershipTransferred",
    "Paused",
    "Unpaused",
}
"""The events that raise the revision (`IAccessRegistry.revision`)."""
MAX_TAGS, MAX_ROUTES = 256, 16


def route(network: str) -> bytes:
    """A network as the contract has it; host bits are kept, for routes that it must refuse."""
    interface = ip_interface(network)
    word = interface.version << 248 | int(interface.ip) << 8 | interface.network.prefixlen
    return word.to_bytes(32, "big")


class Refused(Exception):  # noqa: N818 - the model's revert
    pass


@dataclass(frozen=True)
class Token:
    owner: str
    name: str
    key: str
    uri: str
    created: int
    key_block: int
    endpoint: str = ""
    expires: int = 0
    status: str = "active"
    tags: int = 0
    routes: tuple[bytes, ...] = ()

    def has_access(self, now: int) -> bool:
        return self.status == "active" and (not self.expires or now <= self.expires)


@dataclass
class Model:
    """A call returns its events, or raises `Refused` with the error and its arguments."""

    tokens: dict[int, Token] = field(default_factory=dict)
    minters: set[str] = field(default_factory=set)
    policy_administrators: set[str] = field(default_factory=set)
    owner: str = OWNER
    pending: str = ZERO
    paused: bool = False
    tags: list[str] = field(default_factory=list)
    policy: str = ""
    used: set[bytes] = field(default_factory=set)
    """Hashes of the invitations that were redeemed or cancelled."""
    revision: int = 1
    """The constructor's `OwnershipTransferred` counts."""

    def count(self, events: Iterable[tuple[Any, ...]]) -> None:
        """Raise the revision as the interface documents it."""
        self.revision += sum(event[0] in RAISING for event in events)

    def live(self) -> dict[int, Token]:
        return {i: t for i, t in self.tokens.items() if t.status != "revoked"}

    def require_owner(self, sender: str) -> None:
        if sender != self.owner:
            raise Refused("OwnableUnauthorizedAccount", sender)

    def require_minter(self, sender: str) -> None:
        if sender != self.owner and sender not in self.minters:
            raise Refused("NotMinter", sender)

    def require_token(self, token: int) -> Token:
        if token not in self.tokens:
            raise Refused("ERC721NonexistentToken", token)
        return self.tokens[token]

    def require_live(self, token: int) -> Token:
        if self.require_token(token).status == "revoked":
            raise Refused("NodeIsRevoked", token)
        return self.tokens[token]

    def require_held(self, token: int, sender: str) -> Token:
        if self.require_token(token).owner != sender:
            raise Refused("NotHolder", token, sender)
        return self.require_live(token)

    def require_key(self, text: str) -> None:
        if text in {key(0), "short"}:
            raise Refused("InvalidPublicKey")

    def require_tags(self, mask: int) -> None:
        undefined = mask >> len(self.tags) << len(self.tags)
        if undefined:
            raise Refused("UndefinedTags", undefined)

    def require_routes(self, routes: tuple[bytes, ...]) -> None:
        if len(routes) > MAX_ROUTES:
            raise Refused("TooManyRoutes", len(routes))
        before = None
        for i, word in enumerate(routes):
            try:
                network = read_route(word)
            except ValueError:
                raise Refused("InvalidRoute", i) from None
            above = before is None or (before.version, before.broadcast_address) < (
                network.version,
                network.network_address,
            )
            if not above:
                raise Refused("RoutesNotAscending", i)
            before = network

    def require_endpoint(self, endpoint: str) -> None:
        if " " in endpoint:
            raise Refused("InvalidEndpoint")

    def require_expiry(self, end: int, now: int) -> None:
        if end and end < now:
            raise Refused("ExpiryInPast", end, now)

    def mint(self, sender: str, to: str, name: str, text: str, uri: str, now: int, block: int) -> list[Any]:
        self.require_minter(sender)
        if self.paused:
            raise Refused("EnforcedPause")
        return self.mint_node(to, name, text, uri, now, block)

    def mint_node(self, to: str, name: str, text: str, uri: str, now: int, block: int) -> list[Any]:
        if name == "-bad":
            raise Refused("InvalidNodeId")
        for i, t in self.live().items():
            if t.name == name:
                raise Refused("NodeIdTaken", name, i)
        self.require_key(text)
        token = len(self.tokens) + 1
        self.tokens[token] = Token(to, name, text, uri, now, block)
        return [("Transfer", ZERO, to, token), ("NodeAccessGranted", token, name, to, text)]

    def revoke(self, sender: str, token: int) -> list[Any]:
        self.require_minter(sender)
        node = self.require_live(token)
        self.tokens[token] = replace(node, status="revoked")
        return [("NodeAccessRevoked", token, node.name)]

    def set_expiry(self, sender: str, token: int, end: int, now: int) -> list[Any]:
        self.require_minter(sender)
        node = self.require_live(token)
        self.require_expiry(end, now)
        self.tokens[token] = replace(node, expires=end)
        return [("NodeExpiryUpdated", token, end)]

    def update_key(self, sender: str, token: int, text: str, block: int) -> list[Any]:
        node = self.require_held(token, sender)
        self.require_key(text)
        self.tokens[token] = replace(node, key=text, key_block=block, status="active")
        return [("NodeKeyUpdated", token, text), ("PublicKeyUpdated", sender, text)]

    def set_endpoint(self, sender: str, token: int, endpoint: str) -> list[Any]:
        node = self.require_held(token, sender)
        self.require_endpoint(endpoint)
        self.tokens[token] = replace(node, endpoint=endpoint)
        return [("NodeEndpointUpdated", token, endpoint)]

    def set_tags(self, sender: str, token: int, mask: int) -> list[Any]:
        self.require_minter(sender)
        node = self.require_live(token)
        self.require_tags(mask)
        self.tokens[token] = replace(node, tags=mask)
        return [("NodeTagsUpdated", token, mask)]

    def set_routes(self, sender: str, token: int, routes: tuple[bytes, ...]) -> list[Any]:
        self.require_minter(sender)
        node = self.require_live(token)
        self.require_routes(routes)
        self.tokens[token] = replace(node, routes=routes)
        return [("NodeRoutesUpdated", token, routes)]

    def define_tag(self, sender: str, name: str) -> list[Any]:
        self.require_owner(sender)
        if name == "-bad":
            raise Refused("InvalidTag")
        if name in self.tags:
            raise Refused("TagExists", name, self.tags.index(name))
        if len(self.tags) == MAX_TAGS:
            raise Refused("TooManyTags")
        self.tags.append(name)
        return [("TagDefined", len(self.tags) - 1, name)]

    def set_policy(self, sender: str, text: str) -> list[Any]:
        if sender != self.owner and sender not in self.policy_administrators:
            raise Refused("NotPolicyAdministrator", sender)
        self.policy = text
        return [("PolicyUpdated", self.policy_hash())]

    def policy_hash(self) -> bytes:
        return keccak(text=self.policy) if self.policy else bytes(32)

    def cancel(self, sender: str, invitation: bytes) -> list[Any]:
        self.require_minter(sender)
        if invitation in self.used:
            raise Refused("InvitationUsed", invitation)
        self.used.add(invitation)
        return [("InvitationCancelled", invitation)]

    def redeem(
        self, sender: str, offer: "Offer", text: str, endpoint: str, now: int, block: int
    ) -> list[Any]:
        if self.paused:
            raise Refused("EnforcedPause")
        if now > offer.deadline:
            raise Refused("InvitationExpired", offer.deadline, now)
        if offer.holder == ZERO:
            if not offer.claimed:
                raise Refused("InvalidClaim")
        elif offer.holder != sender:
            raise Refused("InvitationForAnother", offer.holder, sender)
        if offer.hash in self.used:
            raise Refused("InvitationUsed", offer.hash)
        self.require_minter(offer.minter)
        if not offer.signed:
            raise Refused("InvalidInvitation")
        kept = replace(self, tokens=dict(self.tokens))
        events = kept.mint_node(sender, offer.name, text, "", now, block)
        token = len(kept.tokens)
        if offer.tags:
            kept.require_tags(offer.tags)
            events.append(("NodeTagsUpdated", token, offer.tags))
        if offer.routes:
            kept.require_routes(offer.routes)
            events.append(("NodeRoutesUpdated", token, offer.routes))
        if offer.expires:
            kept.require_expiry(offer.expires, now)
            events.append(("NodeExpiryUpdated", token, offer.expires))
        if endpoint:
            kept.require_endpoint(endpoint)
            events.append(("NodeEndpointUpdated", token, endpoint))
        self.used.add(offer.hash)
        self.tokens[token] = replace(
            kept.tokens[token],
            tags=offer.tags,
            routes=offer.routes,
            expires=offer.expires,
            endpoint=endpoint,
        )
        return [*events, ("InvitationRedeemed", offer.hash, token)]

    def transfer(self, sender: str, to: str, token: int) -> list[Any]:
        node = self.require_token(token)
        if node.owner != sender:
            raise Refused("ERC721InsufficientApproval", sender, token)
        self.require_live(token)
        self.tokens[token] = replace(
            node, owner=to, key="", key_block=0, endpoint="", status="awaiting", tags=0, routes=()
        )
        return [("Transfer", sender, to, token), ("NodeAccessTransferred", token, sender, to)]

    def view(self, token: int) -> tuple[Any, ...]:
        t = self.tokens[token]
        fixed = (token, t.owner, t.name, t.key, t.endpoint, t.uri, t.created, t.key_block, t.expires)
        return (*fixed, t.status == "active", t.status == "awaiting", t.tags, t.routes)


@dataclass(frozen=True)
class Offer:
    """An invitation, as far as the model goes: its signatures are right or not."""

    hash: bytes
    name: str
    tags: int
    routes: tuple[bytes, ...]
    expires: int
    deadline: int
    minter: str
    holder: str
    signed: bool
    claimed: bool


def read_route(word: bytes) -> IPv4Network | IPv6Network:
    """The network of a word; raises `ValueError` if it is not canonical."""
    number = int.from_bytes(word, "big")
    family, address, prefix = number >> 248, number >> 8 & (1 << 240) - 1, number & 0xFF
    if family == 4:
        return IPv4Network((address, prefix))
    if family == 6:
        return IPv6Network((address, prefix))
    raise ValueError(f"no family {family}")
