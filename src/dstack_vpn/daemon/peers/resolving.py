"""The task that resolves peers' host names, and resolves them again when a peer is silent."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from dstack_vpn.core.model import DeviceState, PeerState
from dstack_vpn.core.wireguard.keys import PublicKey
from dstack_vpn.daemon.peers.endpoints import EndpointBook, overdue
from dstack_vpn.daemon.peers.members import Members
from dstack_vpn.ports import Clock


@dataclass(slots=True)
class EndpointResolver:
    """Keeps the resolved addresses current."""

    book: EndpointBook
    members: Members
    clock: Clock
    _seen: Mapping[PublicKey, PeerState] = field(default_factory=dict, init=False)
    """The peers at the last comparison that found the device correct."""

    async def run(self) -> None:
        """Resolve names when they are due, until cancelled."""
        await self.book.run(self.members.resolved, self.members.reached_by)

    def observe(self, state: DeviceState) -> None:
        """Resolve the names again of peers that we send to without a handshake."""
        before, self._seen = self._seen, state.peers
        if not self.book.in_use:
            return
        members, found = self.members, []
        for key in overdue(state, before, self.clock.now()):
            for token in members.membership.tokens_of(key):
                node = members.follower.registry.get(token)
                peer_endpoint = None if node is None else members.policy.endpoint_of(node)
                if peer_endpoint is not None and peer_endpoint.udp is not None:
                    found.append(peer_endpoint.udp)
        self.book.refresh(found)
