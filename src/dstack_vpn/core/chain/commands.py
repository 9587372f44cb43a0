"""What the follower asks for, and what it has to say: a closed union of commands."""

from dataclasses import dataclass
from typing import TypeAlias

from dstack_vpn.core.chain.events import LoggedEvent
from dstack_vpn.core.chain.registry import Registry
from dstack_vpn.core.model import BlockRef, TokenId


@dataclass(frozen=True, slots=True)
class FetchHead:
    """Fetch the latest header."""


@dataclass(frozen=True, slots=True)
class FetchHeader:
    """Fetch the canonical header at this height."""

    number: int


@dataclass(frozen=True, slots=True)
class FetchEvents:
    """Fetch the registry's events from block ``first`` to the very block ``last``, inclusive."""

    first: int
    last: BlockRef


@dataclass(frozen=True, slots=True)
class Reload:
    """Nothing that we remember is on this chain any more, or too much is missing: read everything anew."""

    reason: str


@dataclass(frozen=True, slots=True)
class Leave:
    """The endpoint contradicts itself: take another one."""

    reason: str


@dataclass(frozen=True, slots=True)
class Advanced:
    """The registry or the tip changed; ``added`` and ``dropped`` say by which events."""

    tip: BlockRef
    registry: Registry
    """What it is after this step; where several come at once, the follower is further already."""
    tokens: frozenset[TokenId] = frozenset()
    """The tokens that may be different now."""
    added: tuple[LoggedEvent, ...] = ()
    dropped: tuple[LoggedEvent, ...] = ()
    reorg_depth: int = 0
    """How many of our blocks a reorg replaced."""


Fetch: TypeAlias = FetchHead | FetchHeader | FetchEvents
Command: TypeAlias = Fetch | Reload | Leave | Advanced
