"""A token of the registry, as the chain describes it."""

from dataclasses import dataclass

from dstack_vpn.core.model import GENESIS, Address, Cidr, Malformed, Position, TokenId
from dstack_vpn.core.paths.peer_endpoint import PeerEndpoint
from dstack_vpn.core.wireguard.keys import PublicKey


@dataclass(frozen=True, slots=True)
class Node:
    """A present or former member. ``None`` in a field means that the chain has no value for it."""

    token_id: TokenId
    owner: Address
    node_id: str | Malformed
    public_key: PublicKey | Malformed | None
    endpoint: PeerEndpoint | Malformed | None = None
    """The contract's own endpoint field."""
    uri_endpoint: PeerEndpoint | Malformed | None = None
    """The ``endpoint`` member of a ``data:`` token URI."""
    active: bool = True
    expires_at: int = 0
    """The last Unix second of access; 0: no expiry."""
    suspended_key: PublicKey | None = None
    """The previous owner's key: it is not admitted until this owner sets one."""
    tags: int = 0
    """The tags as a bit mask: bit i stands for the i-th tag that the contract defines."""
    routes: tuple[Cidr, ...] | Malformed = ()
    """The networks behind the node, in ascending order."""
    key_since: Position = GENESIS
    """The position at which ``public_key`` was set.

    Confirmations count from here, and the earliest of duplicates wins.
    """

    @property
    def via(self) -> str | None:
        """The node id of its gateway if this is a plain client.

        The contract's own field counts, or else the token URI.
        """
        for found in (self.endpoint, self.uri_endpoint):
            if isinstance(found, PeerEndpoint):
                return found.via
        return None
