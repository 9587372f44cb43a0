"""The registry contract's behaviour as its documentation promises it, as plainly as Python can say it."""

from dataclasses import dataclass, field, replace
from typing import Any

from tests.contracts.evm import OWNER, ZERO, key


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

    def has_access(self, now: int) -> bool:
        return self.status == "active" and (not self.expires or now <= self.expires)


@dataclass
class Model:
    """Every method returns the events of the call, or raises `Refused` with the error and its arguments."""

    tokens: dict[int, Token] = field(default_factory=dict)
    minters: set[str] = field(default_factory=set)
    owner: str = OWNER
    pending: str = ZERO
    paused: bool = False

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
        for i, t in self.live().items():
            if t.key == text:
                raise Refused("PublicKeyTaken", text, i)

    def mint(self, sender: str, to: str, name: str, text: str, uri: str, now: int, block: int) -> list[Any]:
        self.require_minter(sender)
        if self.paused:
            raise Refused("EnforcedPause")
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
        if end and end < now:
            raise Refused("ExpiryInPast", end, now)
        self.tokens[token] = replace(self.require_live(token), expires=end)
        return [("NodeExpiryUpdated", token, end)]

    def update_key(self, sender: str, token: int, text: str, block: int) -> list[Any]:
        node = self.require_held(token, sender)
        self.require_key(text)
        self.tokens[token] = replace(node, key=text, key_block=block, status="active")
        return [("NodeKeyUpdated", token, text), ("PublicKeyUpdated", sender, text)]

    def set_endpoint(self, sender: str, token: int, endpoint: str) -> list[Any]:
        node = self.require_held(token, sender)
        if " " in endpoint:
            raise Refused("InvalidEndpoint")
        self.tokens[token] = replace(node, endpoint=endpoint)
        return [("NodeEndpointUpdated", token, endpoint)]

    def transfer(self, sender: str, to: str, token: int) -> list[Any]:
        node = self.require_token(token)
        if node.owner != sender:
            raise Refused("ERC721InsufficientApproval", sender, token)
        self.require_live(token)
        self.tokens[token] = replace(node, owner=to, key="", key_block=0, endpoint="", status="awaiting")
        return [("Transfer", sender, to, token), ("NodeAccessTransferred", token, sender, to)]

    def view(self, token: int) -> tuple[Any, ...]:
        t = self.tokens[token]
        fixed = (token, t.owner, t.name, t.key, t.endpoint, t.uri, t.created, t.key_block, t.expires)
        return (*fixed, t.status == "active", t.status == "awaiting")
