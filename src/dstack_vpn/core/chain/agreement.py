"""The last full reading that agreed with our registry: one call can repeat its result.

A revision stands for the contract's whole state. The contract's ``revision()`` rises with every
change. Two blocks of one chain with the same number therefore have the same tokens. Without that
function, the root hash of the contract's storage is the revision. It is computed from the content
alone: two blocks with the same root have the same tokens, also across a change and its reversal,
and on two forks.

If our registry is still the one that agreed with a full reading at the first block, it also agrees
with a full reading at the second (docs/decisions/0036-audits-by-revision.md,
docs/decisions/0044-audits-by-storage-root.md).

The rule needs no event and no count of events. A missed, forged or misinterpreted event changes the
revision or our registry, and either leads to a full reading. Numbers of two forks are not
comparable: the caller proves that the first block is on the chain of the second.
"""

from dataclasses import dataclass, replace
from typing import Final, Self, TypeAlias

from dstack_vpn.core.chain.contract import ContractState
from dstack_vpn.core.chain.events import TokenState
from dstack_vpn.core.chain.registry import Registry
from dstack_vpn.core.model import BlockRef

Revision: TypeAlias = int | str
"""A number that rises with every change, or the root hash of the contract's storage."""

REPEATS: Final = 119
"""Audits in a row that may read only the revision; the next one reads everything (ADR 0048)."""
_ROOT_READINGS: Final = 2
"""Full readings that a root hash needs before it repeats them.

A contract without ``revision()`` may be unable to enumerate. Its tokens are those that the logs
name, and an endpoint may serve the newest logs late.
"""


@dataclass(frozen=True, slots=True)
class Agreement:
    """A registry that equals the contract's state at a block, as full readings have shown."""

    at: BlockRef
    revision: Revision
    registry: Registry
    repeats: int = 0
    """The audits since the last full reading."""
    readings: int = 1
    """The full readings that showed this revision and this registry, one after the other."""

    @classmethod
    def after(
        cls, before: Self | None, at: BlockRef, revision: Revision, registry: Registry, repeats: int = 0
    ) -> Self:
        """Return the agreement after an audit without a difference; ``before`` is the previous one.

        Without ``repeats``, the audit was a full reading.
        """
        readings = 0 if repeats else 1
        if before is not None and before.revision == revision and before.holds(registry):
            readings += before.readings
        return cls(at, revision, registry, repeats, readings)

    @property
    def is_root(self) -> bool:
        """True for a root hash: blocks of two forks with the same one have the same tokens."""
        return isinstance(self.revision, str)

    def covers(self, registry: Registry) -> bool:
        """Return whether an equal revision is enough to show that this registry is correct."""
        readings = _ROOT_READINGS if self.is_root else 1
        return self.repeats < REPEATS and self.readings >= readings and self.holds(registry)

    def repeated(self, at: BlockRef, revision: Revision | None) -> Self | None:
        """Return the agreement at another block; None if the contract has changed.

        For a number, the block must be of the same chain.
        """
        return replace(self, at=at, repeats=self.repeats + 1) if revision == self.revision else None

    def states(self) -> list[TokenState]:
        """Return the tokens as a full reading would show them."""
        return [TokenState(token, node) for token, node in self.registry.nodes.items()]

    @property
    def contract(self) -> ContractState | None:
        """The contract's own state as a full reading would show it; None if it has none."""
        return self.registry.contract if self.registry.contract.is_read else None

    def holds(self, registry: Registry) -> bool:
        """Return whether this is the registry that agreed."""
        return self.registry is registry or self.registry == registry
