"""The validated configuration, and the presets of networks."""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from dstack_vpn.core.access.staleness import StalePolicy
from dstack_vpn.core.chain.proxy import Proxies
from dstack_vpn.core.model import Address, SocketAddress
from dstack_vpn.core.paths.peer_endpoint import PeerEndpoint
from dstack_vpn.core.paths.port_forward import Forward
from dstack_vpn.core.paths.relay_url import Listen
from dstack_vpn.core.paths.routes import AcceptRoutes
from dstack_vpn.core.paths.selector import TransportMode
from dstack_vpn.core.wireguard.keys import PrivateKey


class Secret:
    """A text that its repr does not show."""

    __slots__ = ("__text",)

    def __init__(self, text: str) -> None:
        self.__text = text

    def reveal(self) -> str:
        """Return the secret text."""
        return self.__text

    def __repr__(self) -> str:
        return "Secret(***)"


@dataclass(frozen=True, slots=True)
class Network:
    """A preset for a chain."""

    name: str
    chain_id: int
    rpc_urls: tuple[str, ...]
    contract: Address | None
    block_time: float | None
    """Seconds between blocks; None if blocks are mined on demand."""


NETWORKS: Final = {
    "base": Network(
        "base",
        8453,
        ("https://mainnet.base.org",),
        "0x37d2106badb01dd5be1926e45d172cb4203c4186",
        0.2,
    ),
    "base-sepolia": Network("base-sepolia", 84532, ("https://sepolia.base.org",), None, 0.2),
    "local": Network(
        "local", 31337, ("ws://127.0.0.1:8545",), "0x5fbdb2315678afecb367f032d93f642f64180aa3", None
    ),
}


@dataclass(frozen=True, slots=True)
class Settings:
    """All validated settings. The repr shows no secrets and no RPC URLs, which may contain one."""

    node_id: str | None
    network: Network
    rpc_url: tuple[str, ...] = field(repr=False)
    proxies: Proxies
    """The proxies for RPC endpoints."""
    rpc_quorum: int
    follow: str
    head_interval: float | None
    """Seconds between polls over WebSocket. None: blocks are announced."""
    poll_interval: float
    """Seconds between polls over HTTP."""
    revoke_early: str | None
    """The name of the subscription to pre-confirmed logs. None: they are not used."""
    rpc_daily_calls: int
    """The budget of calls for a day; 0: no limit."""
    chain_id: int
    contract_address: Address
    contract_abi: str
    start_block: int | None
    wireguard_private_key: PrivateKey | None
    key_file: Path | None
    """The path of the generated key, existing or not; None: the key is not generated."""
    key_from_agent: bool
    """True if the dstack guest agent derives the key, which is never on a disk."""
    exposed: tuple[str, ...]
    """Secrets from the environment, which more processes can read than a file."""
    unknown: tuple[str, ...]
    """Unknown variables with names similar to a setting's, each with that setting."""
    texts: Mapping[str, str] = field(repr=False)
    """The texts of all given settings and proxies, by variable; for a secret, its file."""
    contract_private_key: Secret | None
    contract_keystore_password: Secret | None
    key_max_age: float
    """Seconds; 0: no limit."""
    sync_interval: float
    """Seconds."""
    max_staleness: float
    """Seconds."""
    stale_policy: StalePolicy
    grant_confirmations: int
    vpn_cidr: ipaddress.IPv4Network
    interface: str
    listen_port: int
    mtu: int
    transport: TransportMode
    relay_listen: Listen | None
    relay_max_connections: int
    relay_max_per_source: int
    relay_offload: bool
    fwmark: int | None
    """The mark of control traffic; with an exit, it always has one."""
    dstack_simulator_endpoint: str | None
    backend: str
    leak_protection: str
    forward_to: tuple[Forward, ...]
    exit_node: tuple[str, ...]
    """The nodes by which everything leaves, the preferred ones first."""
    exit_allow_lan: bool
    accept_routes: AcceptRoutes
    """The networks behind other nodes that this node uses."""
    route_snat: bool
    policy_file: Path | None
    """A policy beside that of the registry; None: not given. Its reader checks its content."""
    keep_interface: bool
    peer_endpoints: Mapping[str, PeerEndpoint]
    peer_endpoint_template: str | None
    persistent_keepalive: int
    health_check_host: str
    health_check_port: int
    dns_port: int
    dns_suffix: str
    dns_listen: tuple[SocketAddress, ...]
    dns_upstream: tuple[SocketAddress, ...]
    api_token: Secret | None
    api_open_to: frozenset[str]
    """A subset of ``loopback``, ``users`` and ``vpn``."""
    api_trusted_proxies: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]
    state_dir: Path
    audit_keep_days: int
    audit_keep_mb: int
    wireguard_config: Path
    log_level: str
    log_levels: Mapping[str, str]
    log_format: str
