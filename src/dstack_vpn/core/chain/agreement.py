"""The last full reading that agreed with our registry: one call can repeat its result.

The contract's ``revision()`` rises with every change. Two blocks of one chain with the same
revision therefore have the same tokens. If our registry is still the one that agreed with a full
reading at the first block, it also agrees with a full reading at the second
(docs/decisions/0036-audits-by-revision.md).

The rule needs no event and no count of events. A missed, forged or misinterpreted event changes the
revision or our registry, and either leads to a full reading. The caller proves that the first block
is on the chain of the second: revisions of two forks are not comparable.
"""

from dataclasses import dataclass, replace
from typing import Final, Self

from dstack_vpn.core.chain.contract import ContractState
from dstack_vpn.core.chain.events import TokenState
from dstack_vpn.core.chain.registry import Registry
from dstack_vpn.core.model import BlockRef

REPEATS: Final = 23
"""Audits in a row that may read only the revision; the next one reads everything (ADR 0036)."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """A registry that equals the contract's state at a block, as a full reading has shown."""

    at: BlockRef
    revision: int
    registry: Registry
    repeats: int = 0
    """The audits since the full reading."""

    def covers(self, registry: Registry) -> bool:
        """Return whether an equal revision is enough to show that this registry is correct."""
        return self.repeats < REPEATS and (self.registry is registry or self.registry == registry)

    def repeated(self, at: BlockRef, revision: int | None) -> Self | None:
        """Return the agreement at another block of this chain; None if the contract has changed."""
        return replace(self, at=at, repeats=self.repeats + 1) if revision == self.revision else None

    def states(self) -> list[TokenState]:
        """Return the tokens as a full reading would show them."""
        return [TokenState(token, node) for token, node in self.registry.nodes.items()]

    @property
    def contract(self) -> ContractState | None:
        """The contract's own state as a full reading would show it; None if it has none."""
        return self.registry.contract if self.registry.contract.is_read else None
