"""The names of a running node, served by its DNS responder."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from dstack_vpn.config import Settings
from dstack_vpn.core.limits.shares import Sources
from dstack_vpn.core.model import SocketAddress
from dstack_vpn.core.names import Answer, DnsStatus, Names
from dstack_vpn.daemon.daemon import Daemon


@dataclass(frozen=True, slots=True)
class NodeDirectory:
    """Implements `adapters.dns.server.Directory`."""

    node: Daemon
    names: Names

    def answer(self, name: str, kind: str) -> Answer:
        """See `Directory.answer`."""
        tunnel = self.node.tunnel
        found = self.names.answer(name, kind, tunnel.members.access, tunnel.members.now(), self.node.roles)
        return without_ipv6(found) if tunnel.without_ipv6 else found

    def authority(self, zone: str) -> str:
        """See `Directory.authority`. The serial is the number of the node's current block."""
        tip = self.node.tunnel.members.follower.tip
        return self.names.start_of_authority(zone, 0 if tip is None else tip.number)

    def addresses(self) -> frozenset[str]:
        """See `Directory.addresses`."""
        return frozenset(cidr.partition("/")[0] for cidr in self.node.tunnel.own_addresses)

    def is_member_address(self, host: str) -> bool:
        """See `Directory.is_member_address`."""
        return self.names.addresses.token_at(host) is not None


def without_ipv6(answer: Answer) -> Answer:
    """Return the answer without IPv6 addresses: a host with IPv6 disabled can't reach them."""
    kept = tuple(record for record in answer.records if record.kind != "AAAA")
    if len(kept) == len(answer.records):
        return answer
    return replace(answer, records=kept, verdict=answer.verdict if kept else DnsStatus.NO_DATA)


def _resolvers(settings: Settings, node: Daemon) -> Sequence[SocketAddress]:
    """Return the servers for other names: DNS_UPSTREAM, or else the exit in use."""
    exit_ = node.exit_keeper.used
    if settings.dns_upstream or exit_ is None:
        return settings.dns_upstream
    return [SocketAddress(each, 53) for each in node.members.addresses.texts_of(exit_.token)]


async def serve_names(settings: Settings, node: Daemon) -> None:
    """Serve the names until cancelled."""
    await node.tunnel.up.wait()
    from dstack_vpn.adapters.dns.server import DnsServer

    members = node.tunnel.members
    names = Names(settings.dns_suffix, members.addresses, settings.node_id)
    sources = Sources(members.addresses)
    server = DnsServer(
        NodeDirectory(node, names),
        settings.dns_port,
        settings.dns_listen,
        partial(_resolvers, settings, node),
        sources,
    )
    node.health.watch("dns", lambda: server.problem)
    await server.run()
