"""The `doctor` command: all checks in order, each reported as soon as it is done."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from dstack_vpn.adapters import logs
from dstack_vpn.adapters.chain.identity import Target
from dstack_vpn.adapters.chain.session import SessionSettings
from dstack_vpn.adapters.contracts import by_name
from dstack_vpn.adapters.doctor import chain, cost, machine, peers
from dstack_vpn.adapters.firewall import NftFirewall
from dstack_vpn.adapters.keys.guest_agent import GuestAgent
from dstack_vpn.config import Settings
from dstack_vpn.core.access.control import AccessControl, Reason, own_problem
from dstack_vpn.core.chain.node import Node
from dstack_vpn.core.model import DeviceState, Endpoint
from dstack_vpn.core.observe.check import Check, CheckStatus, failed, passed, warned
from dstack_vpn.core.policy.members import directory_of
from dstack_vpn.core.policy.networks import OwnNetworks
from dstack_vpn.core.wireguard.x25519 import derive
from dstack_vpn.errors import AdminError, AgentError, ChainError, ConfigError, DeviceError, FormatError
from dstack_vpn.wiring import ownership
from dstack_vpn.wiring.addresses import address_plan, peer_policy
from dstack_vpn.wiring.firewall import forwarding, forwarding_for_clients, forwarding_to_networks
from dstack_vpn.wiring.keys import identity_of
from dstack_vpn.wiring.node import look_at_device, now
from dstack_vpn.wiring.policy import read_policy
from dstack_vpn.wiring.policy_plan import under_policy
from dstack_vpn.wiring.rpc import contacts, rpc_urls
from dstack_vpn.wiring.secrets import directories

PEERS: Final = 16
"""The limit of peers whose paths are tested; a network of hundreds would take minutes."""

SESSION: Final = 180.0
"""Seconds after a handshake for which a session counts."""

Daemon = Mapping[str, Any]
"""A running daemon's reply at ``/stats``; empty if no daemon replies."""


async def examine(settings: Settings, daemon: Daemon, report: Callable[[Check], None]) -> list[Check]:
    """Run and return all checks; ``report`` gets each as soon as it is done.

    Changes nothing on the machine, and turns failures into failed checks.
    """
    logs.configure("error", {}, "console")
    done: list[Check] = []

    def add(*checks: Check) -> None:
        for check in checks:
            done.append(check)
            report(check)

    add(await machine.wireguard(settings.backend), machine.tun(settings.backend), machine.capabilities())
    add(await ownership.check(settings))
    if settings.forward_to:
        add(await forwarding(settings))
    device, seen = await _device(settings, daemon)
    add(seen, machine.state(settings.state_dir), directories(settings))
    add(machine.udp_port(settings.listen_port, settings.interface, device))
    host, port = settings.health_check_host, settings.health_check_port
    add(machine.http_port(host, port, running=bool(daemon)))
    add(await peers.resolves(_hosts(settings)))
    settings, seen_key = await _key(settings)
    add(*seen_key)
    found = await _endpoints(settings)
    add(*(endpoint.check for endpoint in found))
    add(*(endpoint.early for endpoint in found if endpoint.early is not None))
    add(chain.clock(found), cost.cost(daemon))
    access = _access(settings, found)
    add(_membership(settings, access, found))
    if access is not None:
        if clients := access.own_clients(now()):
            add(await forwarding_for_clients(settings, len(clients)))
        add(*await _networks(settings, access))
        access, seen_policy = await _policy(settings, access)
        add(*seen_policy, *await _names(settings, access, daemon))
        for checks in await _peers(settings, access, daemon):
            add(*checks)
    return done


async def _key(settings: Settings) -> tuple[Settings, Sequence[Check]]:
    """Return the settings, with the guest agent's key if it is configured, and its check."""
    if not settings.key_from_agent:
        return settings, ()
    agent = GuestAgent(settings.dstack_simulator_endpoint)
    try:
        key = await agent.wireguard_key()
    except AgentError as error:
        return settings, [failed("guest agent", str(error), "mount its socket into the container")]
    found = replace(settings, wireguard_private_key=key)
    return found, [passed("guest agent", f"{agent.endpoint} derives this node's key")]


async def _device(settings: Settings, daemon: Daemon) -> tuple[DeviceState | None, Check]:
    name = settings.interface
    try:
        device = await look_at_device(settings)
    except DeviceError as error:
        advice = "if it belongs to this node, restart the daemon, which sets it up again; else see 'host'"
        return None, failed("interface", str(error), advice)
    if device is None:
        if daemon:
            return None, failed("interface", f"{name} is missing, but the daemon runs", "see its /health")
        return None, passed("interface", f"{name} does not exist yet: the daemon creates it")
    key = settings.wireguard_private_key
    if key is not None and device.public_key not in {None, derive(key)}:
        return device, warned(
            "interface",
            f"{name} has another key than the settings",
            "if the settings have changed, restart the daemon",
        )
    return device, passed("interface", f"{name} has {len(device.peers)} peers")


def _hosts(settings: Settings) -> dict[str, str]:
    """Return the host names to resolve, by their display names."""
    return {
        shown: host
        for shown, host in contacts(settings).items()
        if host.strip("0123456789.") and ":" not in host and host != "localhost"
    }


async def _endpoints(settings: Settings) -> Sequence[chain.ProbedEndpoint]:
    abi = None if settings.contract_abi == "auto" else by_name(settings.contract_abi)
    session = SessionSettings(
        settings.network.block_time, early=settings.revoke_early, start_block=settings.start_block
    )
    # Each endpoint has its own target, so that no reply sets the expectation for another.
    urls = rpc_urls(settings)
    targets = [Target(settings.contract_address, settings.chain_id, abi=abi) for _ in urls]
    pairs = zip(urls, targets, strict=True)
    return await asyncio.gather(*(chain.endpoint(url, target, session, now()) for url, target in pairs))


def _access(settings: Settings, found: Sequence[chain.ProbedEndpoint]) -> AccessControl | None:
    snapshot = next((endpoint.snapshot for endpoint in found if endpoint.snapshot is not None), None)
    key = settings.wireguard_private_key
    if snapshot is None or key is None:
        return None
    height = snapshot.at.number
    return AccessControl(
        snapshot.registry,
        address_plan(settings),
        derive(key),
        height,
        settings.grant_confirmations,
        identity=identity_of(settings),
    )


def _membership(
    settings: Settings, access: AccessControl | None, found: Sequence[chain.ProbedEndpoint]
) -> Check:
    if settings.wireguard_private_key is None:
        advice = "set WIREGUARD_PRIVATE_KEY_FILE; 'dstack-vpn keygen' creates a key"
        return failed("membership", "no key", advice)
    if access is None:
        if all(endpoint.check.status is CheckStatus.FAIL for endpoint in found):
            return failed("membership", "no RPC endpoint is usable", "fix RPC_URL first")
        advice = "run 'dstack-vpn node info NODE'"
        return warned("membership", "this contract can't enumerate its tokens", advice)
    problem = own_problem(access, now())
    if problem is not None:
        return failed("membership", problem, "see 'dstack-vpn node register' and 'node update-key'")
    node = access.decide(access.own_key, now()).node
    assert node is not None
    return passed("membership", f"node {node.node_id}, token {node.token_id}, with this node's key")


async def _networks(settings: Settings, access: AccessControl) -> list[Check]:
    own = access.decide(access.own_key, now())
    if own.reason is not Reason.OWN_KEY or not own.routes:
        return []
    found = OwnNetworks.of(own.routes, access.addresses.networks, has_exit=bool(settings.exit_node))
    return [await forwarding_to_networks(settings, found)]


async def _policy(settings: Settings, access: AccessControl) -> tuple[AccessControl, list[Check]]:
    """Return access control under the policies, and a check if there are any or may be."""
    try:
        found = await read_policy(settings)
        applied, notes = under_policy(settings, access, found, now())
    except (AdminError, ChainError, ConfigError) as error:
        return access, [failed("policy", str(error), "run 'dstack-vpn policy show'")]
    if notes:
        return applied, [failed("policy", "; ".join(notes), "see 'dstack-vpn policy check'")]
    if applied.policy is None:
        open_ = "the registry has no policy: every member may reach every other"
        return access, [passed("policy", open_)] if found.supported else []
    if not NftFirewall().is_there:
        advice = "apt install nftables"
        return applied, [failed("policy", "it can't be enforced without libnftables", advice)]
    others = len(directory_of(applied, now()).members) - 1
    connected = sum(1 for _ in applied.granted(now()))
    return applied, [passed("policy", f"it connects this node with {connected} of {others} other members")]


async def _names(settings: Settings, access: AccessControl, daemon: Daemon) -> list[Check]:
    own = access.decide(access.own_key, now())
    if not (daemon and settings.dns_port and own.reason is Reason.OWN_KEY and own.node is not None):
        return []
    address = access.addresses.ipv4_of(own.node.token_id) or access.addresses.ipv6_of(own.node.token_id)
    name = f"{own.node.node_id}.{settings.dns_suffix}"
    return [await peers.names(str(address), name, settings.dns_port)]


async def _peers(settings: Settings, access: AccessControl, daemon: Daemon) -> list[list[Check]]:
    policy = peer_policy(settings)
    seen = {peer["token"]: peer for peer in daemon.get("peers", ())}
    handshakes = {token: peer["last_handshake"] for token, peer in seen.items()}
    # A plain client is not a peer, or has no endpoint.
    direct = (node for node in access.granted(now()) if node.via is None)
    members = sorted(direct, key=lambda node: node.token_id)
    # Peers without a handshake come first.
    members.sort(key=lambda node: handshakes.get(node.token_id) or 0)

    async def one(node: Node) -> list[Check]:
        way = policy.endpoint_of(node)
        if way is None:
            found = "it has no endpoint: it must initiate the handshake"
            return [passed(f"path to {node.node_id}", found)]
        last = handshakes.get(node.token_id)
        if way.udp is not None and (used := _in_use(seen.get(node.token_id), now())) is not None:
            way = replace(way, udp=used)
        age = now() - last if last else None
        return await peers.peer_endpoint(str(node.node_id), way, settings.mtu, age, policy.destinations)

    found = await asyncio.gather(*(one(node) for node in members[:PEERS]))
    if len(members) > PEERS:
        found.append([passed("more peers", f"{len(members) - PEERS} were not tested")])
    return found


def _in_use(peer: Mapping[str, Any] | None, at: float) -> Endpoint | None:
    """Return the endpoint that the daemon uses for the peer now: the peer may have roamed."""
    if peer is None or peer.get("transport") != "udp" or not peer.get("endpoint"):
        return None
    if at - (peer.get("last_handshake") or 0) > SESSION:
        return None
    try:
        return Endpoint.parse(peer["endpoint"])
    except FormatError:
        return None  # not an address: a relay of this machine
