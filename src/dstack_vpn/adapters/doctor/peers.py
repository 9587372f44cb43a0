"""Checks of the paths to peers: names, UDP and its MTU, relays."""

import asyncio
import errno
import socket
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from dstack_vpn.adapters.resolver import SystemResolver
from dstack_vpn.core.model import Endpoint, SocketAddress
from dstack_vpn.core.observe.check import Check, failed, passed, warned
from dstack_vpn.core.paths.destination import Destinations
from dstack_vpn.core.paths.peer_endpoint import PeerEndpoint
from dstack_vpn.core.paths.relay_url import RelayUrl
from dstack_vpn.errors import RelayError

WAIT: Final = 0.7
"""Seconds to wait for an ICMP error."""
OVERHEAD: Final = {socket.AF_INET: 60, socket.AF_INET6: 80}
"""Bytes added to a packet in the tunnel: WireGuard's 32, UDP's 8 and IP's 20 or 40."""
LEAST_MTU: Final = 1280
"""The smallest MTU of IPv6 (RFC 8200, 5), and of the settings."""
_IP_MTU_DISCOVER: Final = 10
_IP_MTU: Final = 14
"""linux/in.h"""
_IPV6_MTU_DISCOVER: Final = 23
_IPV6_MTU: Final = 24
"""linux/in6.h"""
_DO: Final = 2
"""IP_PMTUDISC_DO: never fragment."""


async def peer_endpoint(
    node: str, way: PeerEndpoint, mtu: int, age: float | None, allowed: Destinations
) -> list[Check]:
    """Check all paths to a peer.

    ``mtu`` is the tunnel's MTU, ``age`` the age of the newest handshake in seconds.
    """
    checks = []
    if way.udp is not None:
        at = way.udp.address or await SystemResolver(allowed).resolve(way.udp.host, way.udp.port)
        checks.append(await _udp(f"udp to {node}", at, mtu, age) if at else _unresolved(node, way.udp))
    destinations = replace(allowed, local=way.local)
    checks += [await _relay(node, upstream, destinations) for upstream in way.relays]
    return checks


def _unresolved(node: str, at: Endpoint) -> Check:
    found = f"{at.host} does not resolve to an address of another machine outside of the VPN"
    return failed(f"udp to {node}", found, "correct the name, or the node's endpoint")


async def _udp(name: str, address: SocketAddress, mtu: int, age: float | None) -> Check:
    try:
        path = await _path_mtu(address, mtu)
    except OSError as error:
        if error.errno == errno.ECONNREFUSED:
            return failed(
                name, f"{address}: no program listens there", "start the peer, or correct its endpoint"
            )
        return failed(name, f"{address}: {error.strerror}", "check routes and firewalls on the path")
    if path < mtu:
        return warned(name, f"{address}: the path's MTU is only {path}", _advice(path))
    if age is not None and age < 180:
        return passed(name, f"{address}: a handshake {age:.0f} s ago, MTU {mtu} fits")
    # WireGuard replies to members only, so silence is expected.
    return passed(name, f"{address}: no error received, MTU {mtu} fits; no handshake is known")


def _advice(path: int) -> str:
    """Return the advice for a path with a small MTU. The settings refuse less than IPv6 needs."""
    if path >= LEAST_MTU:
        return f"set MTU={path}"
    return (
        f"MTU can't be less than {LEAST_MTU}: raise the path's MTU by {LEAST_MTU - path} bytes, or reach the "
        "peer by a relay (TRANSPORT=tcp)"
    )


async def _path_mtu(address: SocketAddress, mtu: int) -> int:
    """Return the largest tunnel MTU that the path is known to support, at most ``mtu``.

    Raises `OSError`.
    """
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    level = socket.IPPROTO_IPV6 if family == socket.AF_INET6 else socket.IPPROTO_IP
    discover = _IPV6_MTU_DISCOVER if family == socket.AF_INET6 else _IP_MTU_DISCOVER
    known = _IPV6_MTU if family == socket.AF_INET6 else _IP_MTU
    overhead = OVERHEAD[family]
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.setblocking(False)
        probe.setsockopt(level, discover, _DO)
        probe.connect(address)
        for _ in range(2):
            try:
                # As long as a full packet. WireGuard ignores it, because it is not a valid message.
                probe.send(bytes(mtu + 32))
            except OSError as error:
                if error.errno != errno.EMSGSIZE:
                    raise
            await _refusal(probe)
        return min(probe.getsockopt(level, known) - overhead, mtu)


async def _refusal(probe: socket.socket) -> None:
    """Wait briefly for an ICMP error, and raise the resulting `OSError`."""
    try:
        async with asyncio.timeout(WAIT / 2):
            await asyncio.get_running_loop().sock_recv(probe, 2048)
    except TimeoutError:
        return
    except OSError as error:
        if error.errno != errno.EMSGSIZE:
            raise


async def _relay(node: str, upstream: RelayUrl, destinations: Destinations) -> Check:
    from dstack_vpn.adapters.relay.dial import dial

    name = f"relay to {node}"
    try:
        dialled = await dial(upstream, timeout=5.0, destinations=destinations)
    except (RelayError, OSError) as error:
        return failed(name, str(error), "start the peer's relay, or correct the node's endpoint")
    dialled.stream.close()
    secured = f", {dialled.tls_version}" if dialled.tls_version else ""
    return passed(name, f"{upstream.name}: connected in {dialled.took * 1000:.0f} ms{secured}")


async def resolves(hosts: Mapping[str, str]) -> Check:
    """Check that the system resolves these hosts. The keys are their names without secrets."""
    resolver = SystemResolver()
    found = await asyncio.gather(*(resolver.resolve(host, 443) for host in hosts.values()))
    unknown = [shown for shown, address in zip(hosts, found, strict=True) if address is None]
    if unknown:
        return failed("dns", f"can't resolve {', '.join(unknown)}", "check /etc/resolv.conf and the names")
    return passed("dns", f"{len(hosts)} names resolve" if hosts else "no names to resolve")


async def names(own: str, name: str, port: int) -> Check:
    """Check that our DNS responder replies for this node at our tunnel address."""
    import dns.asyncquery
    import dns.exception
    import dns.message

    query = dns.message.make_query(name, "ANY")
    try:
        answer = await dns.asyncquery.udp(query, own, timeout=2.0, port=port)
    except (dns.exception.DNSException, OSError) as error:
        return failed(
            "names", f"{own}:{port} does not reply: {error}", "see the daemon's log for dns.trouble"
        )
    if not answer.answer:
        return failed("names", f"{own}:{port} does not know {name}", "see the daemon's health")
    return passed("names", f"{own}:{port} answers for {name}")
