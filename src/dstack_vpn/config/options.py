"""Every setting there is: the parser, the command line and docs/configuration.md are made from this table."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from dstack_vpn.config import parsers
from dstack_vpn.config.settings import NETWORKS
from dstack_vpn.core.model import parse_node_id
from dstack_vpn.core.paths.port_forward import parse_forwards

LEVELS: Final = ("debug", "info", "warning", "error")
COMPONENTS: Final = (
    *("chain", "rpc", "registry", "device", "endpoints"),
    *("store", "node", "web", "relay", "dns", "firewall"),
)


@dataclass(frozen=True, slots=True)
class Option:
    """One setting."""

    name: str
    """The environment variable; the flag and the file's key are made from it."""
    parse: Callable[[str], Any]
    """Raises `FormatError` or `ValueError` with what is wrong."""
    default: str | None
    """As it would be written; None: there is none, or it depends on others."""
    help: str
    example: str
    secret: bool = False
    """May also be given as a file, by ``NAME_FILE``; has no flag, because others can read arguments."""

    @property
    def flag(self) -> str:
        """The command line's flag, such as ``--node-id``."""
        return "--" + self.key.replace("_", "-")

    @property
    def key(self) -> str:
        """The key in the TOML file, and the field of `Settings`."""
        return self.name.lower()

    @property
    def choices(self) -> tuple[str, ...]:
        """The values of a setting with a fixed choice; else empty."""
        if isinstance(self.parse, parsers.OneOf):
            return tuple(self.parse.values)
        return ("1", "0") if self.parse is parsers.boolean else ()


OPTIONS: Final[tuple[Option, ...]] = (
    Option(
        "NODE_ID",
        parse_node_id,
        None,
        "Our own node id. A token of another id is not ours, even if it has our key, which another member "
        "can have copied; without NODE_ID, our key says who we are, and with KEY_MAX_AGE the account.",
        "web-1",
    ),
    Option(
        "NETWORK",
        parsers.network,
        "base",
        f"The chain: presets for all that belongs to it; one of {', '.join(NETWORKS)}.",
        "base",
    ),
    Option(
        "RPC_URL",
        parsers.urls,
        None,
        "JSON-RPC endpoints in order of preference, separated by commas; default: the network's public one.",
        "wss://rpc.example.org/KEY,https://mainnet.base.org",
    ),
    Option(
        "RPC_QUORUM",
        parsers.number(1, 16),
        "1",
        "Endpoints, of different hosts, that must show a grant before it counts; a revocation takes one. "
        "1 believes whichever endpoint is followed. See docs/trust.md.",
        "2",
    ),
    Option(
        "CHAIN_ID",
        parsers.number(1, 2**63),
        None,
        "Chain id that every endpoint must have; default: the network's.",
        "8453",
    ),
    Option(
        "CONTRACT_ADDRESS",
        parsers.address,
        None,
        "The registry contract; default: the network's.",
        "0x37d2106bADB01dd5bE1926e45D172Cb4203C4186",
    ),
    Option(
        "CONTRACT_ABI",
        parsers.choice("auto", "access-registry", "dstack-access-nft"),
        "auto",
        "The registry's interface; auto finds out.",
        "auto",
    ),
    Option(
        "START_BLOCK",
        parsers.number(0, 2**63),
        None,
        "Where the contract's logs begin; default: found by search. "
        "Only a contract that can't enumerate its tokens needs it.",
        "12345678",
    ),
    Option(
        "WIREGUARD_PRIVATE_KEY",
        parsers.wireguard_key,
        None,
        "Our WireGuard key. 'generate' makes one on the first start and keeps it in STATE_DIR; its public "
        "key is logged, to be registered. 'dstack' has the dstack guest agent derive it for this instance: "
        "it is never on a disk.",
        "the output of 'dstack-vpn keygen', or: generate, or: dstack",
        secret=True,
    ),
    Option(
        "CONTRACT_PRIVATE_KEY",
        parsers.contract_key,
        None,
        "The account that signs transactions. Only the commands that send some need it, and the daemon where "
        "it is to change its key by KEY_MAX_AGE: then that of the node's holder. See docs/trust.md.",
        "0x and 64 hexadecimal digits",
        secret=True,
    ),
    Option(
        "KEY_MAX_AGE",
        parsers.duration("1h", "3650d", or_0=True),
        "0",
        "Age at which our WireGuard key is changed, with WIREGUARD_PRIVATE_KEY=generate; 0: never. The "
        "daemon does it with CONTRACT_PRIVATE_KEY; without, health and log remind of it.",
        "90d",
    ),
    Option(
        "SYNC_INTERVAL",
        parsers.duration("1s", "1d"),
        "30s",
        "Time between full audits against the contract.",
        "30s",
    ),
    Option(
        "MAX_STALENESS",
        parsers.duration("1m", "30d"),
        "24h",
        "Time for which the last known members count without the chain being read; at a restart, older "
        "members do not come back.",
        "1h",
    ),
    Option(
        "STALE_POLICY",
        parsers.stale_policy,
        "keep",
        "What then becomes of the members of a running node: keep them (health fails), or isolate: no peers "
        "until the chain was read.",
        "isolate",
    ),
    Option(
        "GRANT_CONFIRMATIONS",
        parsers.number(0, 8000),
        "0",
        "Blocks that must follow a grant before it counts; revocations always count at once.",
        "10",
    ),
    Option(
        "VPN_CIDR",
        parsers.cidr,
        "10.77.0.0/16",
        "The tunnel's IPv4 range, equal on all nodes: private (RFC 1918), and no network of the host's.",
        "10.77.0.0/16",
    ),
    Option("INTERFACE", parsers.interface, "wg0", "Name of the WireGuard interface.", "wg0"),
    Option("LISTEN_PORT", parsers.number(1, 65535), "51820", "UDP port of WireGuard.", "51820"),
    Option(
        "MTU",
        parsers.number(1280, 9000),
        None,
        "MTU of the interface in bytes; default: 1420, and 1360 where TRANSPORT is tcp or tls.",
        "1420",
    ),
    Option(
        "BACKEND",
        parsers.choice("auto", "kernel", "userspace"),
        "auto",
        "The kernel's WireGuard, or wireguard-go; auto takes the kernel's where there is one.",
        "auto",
    ),
    Option(
        "LEAK_PROTECTION",
        parsers.choice("auto", "on", "off"),
        "auto",
        "Have nftables keep packets for the VPN from other interfaces, and packets from it from other "
        "networks and from this machine's other addresses; auto does if nft is installed. Blackhole routes "
        "do the former anyway.",
        "on",
    ),
    Option(
        "FORWARD_TO",
        parse_forwards,
        "",
        "Machines behind this node that peers reach at its tunnel addresses: [tcp:|udp:]PORT=HOST[:PORT], "
        "separated by commas. Needs nft, and net.ipv4.ip_forward=1.",
        "80=web:8000,udp:53=192.168.1.1",
    ),
    Option("KEEP_INTERFACE", parsers.boolean, "0", "Leave the tunnel up when the daemon ends.", "1"),
    Option(
        "TRANSPORT",
        parsers.transport,
        "auto",
        "How peers are reached: auto is UDP, and a relay of the peer's where UDP does not get through; "
        "udp, tcp and tls allow only that.",
        "auto",
    ),
    Option(
        "RELAY_LISTEN",
        parsers.relay_listen,
        None,
        "Where peers can reach this node over TCP or TLS, beside UDP. A tls:// URL makes its "
        "own certificate and logs its pin; ?cert=FILE&key=FILE takes one from files, and ?cert=dstack from "
        "the dstack guest agent.",
        "tls://0.0.0.0:443",
    ),
    Option(
        "RELAY_MAX_CONNECTIONS",
        parsers.number(1, 65535),
        "1024",
        "UDP sources, or connections, at once.",
        "1024",
    ),
    Option(
        "RELAY_MAX_PER_SOURCE",
        parsers.number(1, 65535),
        "256",
        "Of these, from one IPv4 address or IPv6 /64. Behind a gateway all come from the gateway's.",
        "256",
    ),
    Option(
        "FWMARK",
        parsers.number(1, 2**32 - 1),
        None,
        "Mark of the TCP connections (SO_MARK), for a rule that keeps them out of a full tunnel.",
        "51820",
    ),
    Option(
        "RELAY_OFFLOAD",
        parsers.boolean,
        "1",
        "Use recvmmsg, UDP_GRO and UDP_SEGMENT where the kernel has them.",
        "1",
    ),
    Option(
        "DSTACK_SIMULATOR_ENDPOINT",
        str,
        None,
        "Another place for the dstack guest agent's socket, or a simulator's URL, for "
        "WIREGUARD_PRIVATE_KEY=dstack and ?cert=dstack.",
        "/var/run/dstack.sock",
    ),
    Option(
        "PEER_ENDPOINTS",
        parsers.endpoints,
        "",
        "Endpoints by node id; they win over the contract's. A node's relays follow its UDP address.",
        "db=192.0.2.10:51820,web-1=vpn.example.org:51820,tls://vpn.example.org:443",
    ),
    Option(
        "PEER_ENDPOINT_TEMPLATE",
        parsers.template,
        None,
        "Where to look for a peer that has no endpoint anywhere else.",
        "{node_id}.vpn.internal:51820",
    ),
    Option(
        "PERSISTENT_KEEPALIVE",
        parsers.seconds(0, 65535),
        "0",
        "Time between keepalives to each peer; 25s behind NAT, else 0. A plain number is in seconds.",
        "25s",
    ),
    Option("HEALTH_CHECK_HOST", parsers.host, "127.0.0.1", "Address that HTTP binds.", "127.0.0.1"),
    Option("HEALTH_CHECK_PORT", parsers.number(0, 65535), "8080", "Its TCP port; 0 switches it off.", "8080"),
    Option(
        "DNS_PORT",
        parsers.number(0, 65535),
        "53",
        "Port of the names' responder on the node's tunnel addresses; 0 switches it off.",
        "53",
    ),
    Option(
        "DNS_SUFFIX",
        parsers.suffix,
        "vpn.internal",
        "The zone that the nodes' names are in: NODE_ID.DNS_SUFFIX.",
        "vpn.internal",
    ),
    Option(
        "DNS_LISTEN",
        parsers.resolvers,
        "",
        "Further addresses for the names' responder, such as for containers; private sources are answered.",
        "172.30.0.2,127.0.0.1:5353",
    ),
    Option(
        "DNS_UPSTREAM",
        parsers.resolvers,
        "",
        "Resolvers for names that are not ours; without any, those are refused.",
        "9.9.9.9,[2620:fe::fe]:53",
    ),
    Option(
        "API_TOKEN",
        parsers.api_token,
        None,
        "What HTTP clients have to give (Authorization: Bearer) for more than /live, /ready and /health.",
        "the output of 'openssl rand -hex 32'",
        secret=True,
    ),
    Option(
        "API_OPEN_TO",
        parsers.open_to,
        "loopback",
        "Who needs no token: loopback (processes of root and of the daemon's own user on this machine), "
        "users (all processes on it), vpn (members, by their tunnel addresses), several with commas, or "
        "none. What a proxy has passed on always needs it; beside a proxy that runs as root, set none.",
        "loopback,vpn",
    ),
    Option(
        "API_TRUSTED_PROXIES",
        parsers.networks,
        "127.0.0.0/8,::1/128",
        "Reverse proxies that may ask /auth without a token, and whose X-Forwarded-For is believed there.",
        "127.0.0.1/32,172.18.0.0/16",
    ),
    Option(
        "STATE_DIR",
        parsers.path,
        "/var/lib/dstack-vpn",
        "Where the registry's state and backups are kept.",
        "/var/lib/dstack-vpn",
    ),
    Option(
        "AUDIT_KEEP_DAYS",
        parsers.number(1, 36_500, " days"),
        "400",
        "How long the audit log's records are kept.",
        "400",
    ),
    Option(
        "AUDIT_KEEP_MB",
        parsers.number(1, 1_000_000, " MB"),
        "64",
        "How large the audit log may grow. What others can cause is cut first, then the oldest.",
        "64",
    ),
    Option(
        "WIREGUARD_CONFIG",
        parsers.path,
        None,
        "The wg-quick file that is kept current; default: /etc/wireguard/INTERFACE.conf.",
        "/etc/wireguard/wg0.conf",
    ),
    Option(
        "LOG_LEVEL",
        parsers.choice(*LEVELS),
        "info",
        "Least severe level to log. LOG_LEVEL_CHAIN and so on set it for "
        f"one component ({', '.join(COMPONENTS)}).",
        "info",
    ),
    Option(
        "LOG_FORMAT",
        parsers.choice("auto", "json", "console"),
        "auto",
        "json lines, or console for people; auto is console in a terminal.",
        "json",
    ),
)
