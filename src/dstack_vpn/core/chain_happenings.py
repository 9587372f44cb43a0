"""What the chain and its endpoints bring; part of the one union of `core.happenings`."""

from dataclasses import dataclass
from typing import ClassVar

from dstack_vpn.core.model import Address, TokenId


@dataclass(frozen=True, slots=True)
class EndpointUsed:
    """An RPC endpoint is followed from now on."""

    kind: ClassVar[str] = "chain.connected"
    endpoint: str
    """Scheme and host; never a path or a credential."""


@dataclass(frozen=True, slots=True)
class EndpointLost:
    """No RPC endpoint is followed; the next one is being tried."""

    kind: ClassVar[str] = "chain.lost"
    problem: str


@dataclass(frozen=True, slots=True)
class EndpointQuarantined:
    """An RPC endpoint was found to lie, and is left alone for a while."""

    kind: ClassVar[str] = "chain.quarantined"
    endpoint: str
    problem: str


@dataclass(frozen=True, slots=True)
class RegistryRead:
    """The whole registry was read from the chain."""

    kind: ClassVar[str] = "chain.read"
    tokens: int
    block: int


@dataclass(frozen=True, slots=True)
class TokenChanged:
    """An event of the registry contract was taken in, or (``undone``) taken back by a reorg."""

    kind: ClassVar[str] = "chain.event"
    event: str
    """Such as ``granted`` or ``key updated``."""
    token: TokenId | None
    """None where the event names an owner and no token."""
    node: str | None
    owner: Address | None
    block: int
    log_index: int
    undone: bool = False

    @property
    def cause(self) -> str:
        """What it is called wherever it is the cause of something: the same on every node."""
        return f"{self.block}-{self.log_index}"


@dataclass(frozen=True, slots=True)
class TokensChanged:
    """Many events of the contract at once, too many to tell one by one."""

    kind: ClassVar[str] = "chain.events"
    added: int
    undone: int
    block: int


@dataclass(frozen=True, slots=True)
class Reorged:
    """The chain has replaced blocks that we stood on."""

    kind: ClassVar[str] = "chain.reorg"
    depth: int
    """Blocks."""
    dropped: int
    added: int
    block: int
