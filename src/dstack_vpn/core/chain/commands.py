"""The requests and results of the follower: a closed union of commands."""

from dataclasses import dataclass
from typing import TypeAlias

from dstack_vpn.core.chain.events import LoggedEvent
from dstack_vpn.core.chain.registry import Registry
from dstack_vpn.core.model import BlockRef, TokenId


@dataclass(frozen=True, slots=True)
class FetchHead:
    """A request for the latest header."""


@dataclass(frozen=True, slots=True)
class FetchHeader:
    """A request for the canonical header at this height."""

    number: int


@dataclass(frozen=True, slots=True)
class FetchEvents:
    """A request for the registry's events from block ``first`` to ``last``, inclusive.

    ``last`` is a block by hash, not only by number.
    """

    first: int
    last: BlockRef


@dataclass(frozen=True, slots=True)
class Reload:
    """A request to read the whole state again.

    No known block is on this chain any more, or too many blocks are missing.
    """

    reason: str


@dataclass(frozen=True, slots=True)
class Leave:
    """A request to change to another endpoint: this one contradicts itself."""

    reason: str


@dataclass(frozen=True, slots=True)
class Advanced:
    """A change of the registry or the tip, by the events in ``added`` and ``dropped``."""

    tip: BlockRef
    registry: Registry
    """The state after this step; with several steps at once, the follower is already ahead."""
    tokens: frozenset[TokenId] = frozenset()
    """The tokens that may have changed."""
    added: tuple[LoggedEvent, ...] = ()
    dropped: tuple[LoggedEvent, ...] = ()
    reorg_depth: int = 0
    """The number of our blocks that a reorg replaced."""


Fetch: TypeAlias = FetchHead | FetchHeader | FetchEvents
Command: TypeAlias = Fetch | Reload | Leave | Advanced
