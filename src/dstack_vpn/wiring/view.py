"""The data of a running node for the API and the dashboard."""

import sys
from collections.abc import Callable, Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from dstack_vpn import __version__
from dstack_vpn.core.access.addressing import AddressPlan
from dstack_vpn.core.access.control import Decision, Reason
from dstack_vpn.core.observe.health import Health
from dstack_vpn.core.policy.evaluation import parse_packet
from dstack_vpn.core.wireguard.keys import PublicKey
from dstack_vpn.daemon.daemon import Daemon
from dstack_vpn.errors import FormatError
from dstack_vpn.wiring.contract_view import describe
from dstack_vpn.wiring.policy_view import describe_policies, explain, rights_with
from dstack_vpn.wiring.snapshot import NodeSnapshot, take

if TYPE_CHECKING:
    from dstack_vpn.adapters.chain.method_stats import Calls
    from dstack_vpn.adapters.relay.tcp2udp import Tcp2Udp
    from dstack_vpn.adapters.web.documents import Later
    from dstack_vpn.adapters.web.server import HttpServer
    from dstack_vpn.adapters.web.stream import Streams
    from dstack_vpn.core.addresses import IPAddress
    from dstack_vpn.wiring.event_metrics import EventMetrics
    from dstack_vpn.wiring.rpc_metrics import RpcMetrics
    from dstack_vpn.wiring.transports import OwnRelay

_HISTORY: Final = 100
"""The limit of entries in a node's history."""


class NodeView:
    """The observable state of a running node: implements `adapters.web.api.ApiView`."""

    def __init__(
        self,
        node: Daemon,
        state_dir: Path | None,
        own_relay: "OwnRelay | None",
        rpc: "Mapping[str, Calls]",
    ) -> None:
        """Show ``node``; ``state_dir`` has the daemon's settings for commands on this machine.

        ``own_relay`` is the relay over which peers reach this node. ``rpc`` has the calls of each
        RPC endpoint.
        """
        self._node, self._state_dir, self._own_relay, self._calls = node, state_dir, own_relay, rpc
        self.feed = node.event_log
        self.version: Mapping[str, Any] = {
            "version": __version__,
            "python": ".".join(map(str, sys.version_info[:3])),
            "api": "1",
        }
        self.web: tuple[HttpServer, Streams] | None = None
        """The server of this view and its streams; None until `served_by`."""
        self._events: EventMetrics | None = None
        self._rpc: RpcMetrics | None = None

    @property
    def relay(self) -> "Tcp2Udp | None":
        """The node's relay for TCP or TLS; None until it listens."""
        return None if self._own_relay is None else self._own_relay.service

    def served_by(self, server: "HttpServer", streams: "Streams") -> None:
        """Include the metrics of this server and its streams."""
        self.web = server, streams

    def counted(self) -> "EventMetrics":
        """Return the event metrics; the first call subscribes them to the event log."""
        if self._events is None:
            # Imported late: Prometheus' client takes 15 ms.
            from dstack_vpn.wiring.event_metrics import EventMetrics

            self._events = EventMetrics()
            self._node.event_log.subscribe(self._events.take)
        return self._events

    def watch(self, name: str, problem: Callable[[], str | None]) -> None:
        """Add a health component for an optional part of the node."""
        self._node.health.watch(name, problem)

    def health(self) -> Health:
        """Return the current health."""
        return self._node.health.verdict()

    def own_key(self) -> PublicKey:
        """Return this node's current public key."""
        return self._node.tunnel.members.own_key

    def rpc(self) -> "RpcMetrics":
        """Return the metrics of RPC calls."""
        if self._rpc is None:
            from dstack_vpn.wiring.rpc_metrics import RpcMetrics

            self._rpc = RpcMetrics(self._calls, self._node.chain.source.usage)
        return self._rpc

    # -- documents ---------------------------------------------------------------------------------

    async def stats(self) -> "Later":
        """Return the counters and peers."""
        where = {"state_dir": None if self._state_dir is None else str(self._state_dir)}
        return await self._written(lambda snapshot: where | snapshot.stats())

    async def peers(self) -> "Later":
        """Return the peers alone."""
        return await self._written(NodeSnapshot.all_peers)

    async def metrics(self) -> "Later":
        """Return the metrics for Prometheus."""
        from dstack_vpn.wiring.metrics import gather

        seen = await self._node.peer_stats.look()
        counted = [*self.rpc().collect(), *self.counted().collect()]
        return gather(self._node, take(self._node, self.relay, seen), counted, self.relay, self.web)

    async def peer(self, node_id: str) -> dict[str, Any] | None:
        """Return a node, its peer if it is one, and its latest events; None if it is unknown."""
        decision = self._decide(node_id)
        if decision.node is None:
            return None
        snapshot, key = (
            take(self._node, self.relay, await self._node.peer_stats.look()),
            decision.node.public_key,
        )
        shown = snapshot.peer(key) if isinstance(key, PublicKey) and key in snapshot.peers else None
        texts = self.addresses.texts_of(decision.node.token_id)
        return {
            "decision": self._shown(decision),
            "peer": shown,
            "policy": rights_with(self._node, map(ip_address, texts)),
            "history": self._history(node_id, decision.node.token_id),
        }

    async def _written(self, write: Callable[[NodeSnapshot], dict[str, Any]]) -> "Later":
        from dstack_vpn.adapters.web.documents import to_json

        snapshot = take(self._node, self.relay, await self._node.peer_stats.look())
        return lambda: to_json(write(snapshot))

    def _history(self, node_id: str, token: int) -> list[dict[str, Any]]:
        feed = self._node.event_log
        found = [
            {"id": f"{feed.epoch}-{entry.number}", "at": entry.at, **entry.shown()}
            for entry in feed.latest()
            if getattr(entry.event, "token", None) == token or getattr(entry.event, "node", None) == node_id
        ]
        return found[-_HISTORY:]

    # -- queries -----------------------------------------------------------------------------------

    def contract(self) -> dict[str, Any]:
        """Return the state of the contract itself: tags, policy and roles."""
        members = self._node.tunnel.members
        return describe(members.follower.registry.contract, members.rules)

    def policy(self) -> dict[str, Any]:
        """Return the policies in force, and what was counted under them."""
        return describe_policies(self._node)

    def explain(
        self, source: "str | IPAddress", destination: "str | IPAddress", ports: str
    ) -> dict[str, Any]:
        """Return the policies' decision about a connection; raises `FormatError`.

        A node id stands for the node's IPv4 address, or for its IPv6 address without one. ``ports``
        is ``tcp:PORT``, ``udp:PORT`` or ``icmp``.
        """
        src, dst = self._address_of(source), self._address_of(destination)
        return explain(self._node, parse_packet(src, dst, ports))

    def _address_of(self, party: "str | IPAddress") -> "IPAddress":
        if not isinstance(party, str):
            return party
        node = self._decide(party).node
        found = () if node is None else self.addresses.texts_of(node.token_id)
        if not found:
            raise FormatError(f"{party} is not a node of the registry")
        return ip_address(found[0])

    def decide(self, subject: "str | PublicKey | IPAddress") -> dict[str, Any]:
        """Return the decision of access control, and the peer's presence in the membership."""
        return self._shown(self._decide(subject))

    def whois(self, address: "IPAddress") -> dict[str, Any] | None:
        """Return the member that has a tunnel address, this node included, or None."""
        decision = self._decide(address)
        node, own = decision.node, decision.reason is Reason.OWN_KEY
        if node is None or not isinstance(node.public_key, PublicKey) or not isinstance(node.node_id, str):
            return None
        if not own and not self._node.tunnel.members.membership.is_peer(node.token_id):
            return None
        return {
            "ip": str(address),
            "token": node.token_id,
            "node": node.node_id,
            "owner": node.owner,
            "public_key": str(node.public_key),
            "self": own,
        }

    def is_ours(self, address: "IPAddress") -> bool:
        """Return whether the address is in the tunnel's networks."""
        plan = self.addresses
        return address in (plan.ipv4 if address.version == 4 else plan.ipv6)

    @property
    def addresses(self) -> AddressPlan:
        """The address plan of this network's tunnel."""
        return self._node.tunnel.members.addresses

    def is_member(self, address: "IPAddress") -> bool:
        """Return whether a member of the network has that tunnel address."""
        return self.whois(address) is not None

    def _decide(self, subject: "str | PublicKey | IPAddress") -> Decision:
        members = self._node.tunnel.members
        now = members.now()
        if isinstance(subject, PublicKey) or (
            isinstance(subject, str) and members.follower.registry.with_node_id(subject)
        ):
            return members.access.decide(subject, now)
        if isinstance(subject, str):
            return _UNKNOWN  # a text is never interpreted as an address
        # Look up the token, not the text: a node id may look like an address.
        token = members.addresses.token_at(str(subject))
        return _UNKNOWN if token is None else members.access.decide(token, now)

    def _shown(self, decision: Decision) -> dict[str, Any]:
        node = decision.node
        membership = self._node.tunnel.members.membership
        key = None if node is None or not isinstance(node.public_key, PublicKey) else node.public_key
        return {
            "granted": decision.granted,
            "reason": decision.reason.value,
            "detail": decision.detail,
            "tags": list(self._node.tunnel.members.follower.registry.contract.tags_of(decision.tags)),
            "routes": list(decision.routes),
            "peer": node is not None and key is not None and membership.is_peer(node.token_id),
            "token": None if node is None else node.token_id,
            "node": None if node is None or not isinstance(node.node_id, str) else node.node_id,
            "owner": None if node is None else node.owner,
            "public_key": None if key is None else str(key),
        }


_UNKNOWN: Final = Decision(granted=False, reason=Reason.UNKNOWN)
