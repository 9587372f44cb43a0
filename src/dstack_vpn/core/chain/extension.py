"""The end of a chain that has a known block, as one small call to an endpoint shows it."""

from dataclasses import dataclass

from dstack_vpn.core.chain.agreement import Revision
from dstack_vpn.core.model import BlockRef


@dataclass(frozen=True, slots=True)
class Extension:
    """Proof that an endpoint's chain still has a block of ours, and the chain's end.

    The proof is the hash of that block, which the endpoint returns without having received it.
    """

    known: BlockRef
    """Our block."""
    head: BlockRef
    """The parent of the latest block, with the latest block's timestamp.

    A call can read neither the hash of the block in which it runs nor the time of another one.
    """
    revision: Revision | None
    """The contract's revision after the latest block, or the root hash of its storage after `head`.

    None: neither was read.
    """

    @property
    def latest(self) -> int:
        """The height of the latest block."""
        return self.head.number + 1
