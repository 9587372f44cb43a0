"""The table of all settings, the source of the parser, the flags and docs/configuration.md."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from dstack_vpn.config import parsers
from dstack_vpn.config.settings import NETWORKS, Secret
from dstack_vpn.core.model import parse_node_id
from dstack_vpn.core.paths.port_forward import parse_forwards
from dstack_vpn.core.paths.routes import AcceptRoutes

LEVELS: Final = ("debug", "info", "warning", "error")
COMPONENTS: Final = (
    *("chain", "rpc", "registry", "device", "endpoints"),
    *("store", "node", "web", "relay", "dns", "firewall", "policy"),
)


@dataclass(frozen=True, slots=True)
class Option:
    """One setting."""

    name: str
    """The environment variable, from which the flag and the file's key derive."""
    parse: Callable[[str], Any]
    """Converts the text; raises `FormatError` or `ValueError` with the problem."""
    default: str | None
    """The default's text; None without a default, or if it depends on other settings."""
    help: str
    example: str
    secret: bool = False
    """True if ``NAME_FILE`` may name a file with the value. Secrets have no flag.

    Other users can read a process's arguments.
    """

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
        """The values of a setting with fixed choices; else empty."""
        if isinstance(self.parse, parsers.OneOf):
            return tuple(self.parse.values)
        return ("1", "0") if self.parse is parsers.boolean else ()


OPTIONS: Final[tuple[Option, ...]] = (
    Option(
        "NODE_ID",
        parse_node_id,
        None,
        "This node's id. Only a token with this id is this node's, even if another member has registered "
        "a copy of its key. Without NODE_ID, the key identifies the node, and with KEY_MAX_AGE the account.",
        "web-1",
    ),
    Option(
        "NETWORK",
        parsers.network,
        "base",
        f"The chain, which presets its settings; one of {', '.join(NETWORKS)}.",
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
        "Number of endpoints on different hosts that must confirm a grant; a revocation requires one. "
        "1 trusts the endpoint in use. See docs/trust.md.",
        "2",
    ),
    Option(
        "FOLLOW",
        parsers.choice("economy", "full"),
        None,
        "How to follow the chain. 'economy': an endpoint announces only the registry's events, and is polled "
        "every HEAD_INTERVAL. 'full': it announces every block as well, which may be hundreds of megabytes "
        "a day, and is polled every second over HTTP. Default: economy; full for the network local.",
        "full",
    ),
    Option(
        "HEAD_INTERVAL",
        parsers.duration("1s", "30s"),
        None,
        "Time between polls of an endpoint with FOLLOW=economy. They are more frequent while an event waits "
        "for later blocks. A reorg is found by them; over HTTP, a revocation as well. "
        "Default: 15s; over HTTP 5s if the contract has a revision.",
        "15s",
    ),
    Option(
        "REVOKE_EARLY",
        parsers.subscription,
        "0",
        "Remove a peer as soon as an endpoint announces its revocation, transfer or change of key in a block "
        "that is not confirmed yet, over WebSocket. 1: by the subscription pendingLogs; a name: by another "
        "one; 0: off. Not every chain and endpoint has it. See docs/trust.md.",
        "1",
    ),
    Option(
        "RPC_DAILY_CALLS",
        parsers.number(0, 10**12),
        "0",
        "Budget of calls to all endpoints for a day (UTC); 0: no limit. Health warns at 80 %. Resyncs become "
        "rarer as it is used up, at most hourly; revocations are not delayed. See docs/rpc-costs.md.",
        "100000",
    ),
    Option(
        "CHAIN_ID",
        parsers.number(1, 2**63),
        None,
        "Chain id that every endpoint must report; default: the network's.",
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
        parsers.choice("auto", "access-registry", "access-registry-v1", "dstack-access-nft"),
        "auto",
        "The registry's interface; auto detects it.",
        "auto",
    ),
    Option(
        "START_BLOCK",
        parsers.number(0, 2**63),
        None,
        "First block with logs of the contract; default: found by search. "
        "Only a contract that can't enumerate its tokens needs it.",
        "12345678",
    ),
    Option(
        "WIREGUARD_PRIVATE_KEY",
        parsers.wireguard_key,
        None,
        "This node's WireGuard key. 'generate' creates one on the first start, keeps it in STATE_DIR, and "
        "logs the public key for registration. With 'dstack', the dstack guest agent derives it for this "
        "instance; it is never on a disk.",
        "the output of 'dstack-vpn keygen', or: generate, or: dstack",
        secret=True,
    ),
    Option(
        "CONTRACT_PRIVATE_KEY",
        parsers.contract_key,
        None,
        "The account that signs transactions. Only commands that send transactions need it. With "
        "KEY_MAX_AGE, the daemon also needs it; it is then the node holder's. See docs/trust.md.",
        "0x and 64 hexadecimal digits",
        secret=True,
    ),
    Option(
        "CONTRACT_KEYSTORE_PASSWORD",
        Secret,
        None,
        "The password of the keystore file that a command's --keystore names. Without it, the command asks "
        "for the password in the terminal.",
        "the password",
        secret=True,
    ),
    Option(
        "KEY_MAX_AGE",
        parsers.duration("1h", "3650d", or_0=True),
        "0",
        "Age at which this node's WireGuard key is rotated, with WIREGUARD_PRIVATE_KEY=generate; 0: never. "
        "The daemon rotates it if CONTRACT_PRIVATE_KEY is set; otherwise health and log report the expiry.",
        "90d",
    ),
    Option(
        "SYNC_INTERVAL",
        parsers.duration("1s", "1d"),
        "30s",
        "Time between two resyncs, which are complete comparisons with the contract.",
        "30s",
    ),
    Option(
        "MAX_STALENESS",
        parsers.duration("1m", "30d"),
        "24h",
        "Time for which the last known members stay valid without a reading of the chain; after a restart, "
        "older members are not restored.",
        "1h",
    ),
    Option(
        "STALE_POLICY",
        parsers.stale_policy,
        "keep",
        "Action of a running node after MAX_STALENESS: keep its peers, with failed health, or isolate: no "
        "peers until the chain is read again.",
        "isolate",
    ),
    Option(
        "GRANT_CONFIRMATIONS",
        parsers.number(0, 8000),
        "0",
        "Number of blocks that must follow a grant before it takes effect; revocations take effect "
        "immediately.",
        "10",
    ),
    Option(
        "VPN_CIDR",
        parsers.cidr,
        "10.77.0.0/16",
        "The tunnel's IPv4 range, the same on all nodes: private (RFC 1918), and not a network of the host.",
        "10.77.0.0/16",
    ),
    Option("INTERFACE", parsers.interface, "wg0", "Name of the WireGuard interface.", "wg0"),
    Option("LISTEN_PORT", parsers.number(1, 65535), "51820", "UDP port of WireGuard.", "51820"),
    Option(
        "MTU",
        parsers.number(1280, 9000),
        None,
        "MTU of the interface in bytes; default: 1420, or 1360 if TRANSPORT is tcp or tls.",
        "1420",
    ),
    Option(
        "BACKEND",
        parsers.choice("auto", "kernel", "userspace"),
        "auto",
        "WireGuard in the kernel, or wireguard-go; auto uses the kernel's if available.",
        "auto",
    ),
    Option(
        "LEAK_PROTECTION",
        parsers.choice("auto", "on", "off"),
        "auto",
        "Use nftables to block packets for the VPN on other interfaces, and packets from the VPN to other "
        "networks and to this machine's other addresses; auto uses it if libnftables is installed. Blackhole "
        "routes block the former in any case.",
        "on",
    ),
    Option(
        "FORWARD_TO",
        parse_forwards,
        "",
        "Machines behind this node that peers reach at its tunnel addresses: [tcp:|udp:]PORT=HOST[:PORT], "
        "separated by commas. Requires libnftables and net.ipv4.ip_forward=1.",
        "80=web:8000,udp:53=192.168.1.1",
    ),
    Option(
        "ACCEPT_ROUTES",
        AcceptRoutes.parse,
        "none",
        "Networks behind other nodes that this node uses: none, all, or those within the given networks, "
        "separated by commas. A network that overlaps an address or route of this host is refused. A "
        "default route is never included. See docs/networks.md.",
        "10.20.0.0/16,2001:db8:20::/48",
    ),
    Option(
        "ROUTE_SNAT",
        parsers.boolean,
        "1",
        "The networks behind this node see this node's address, and not the members'. 0 if they have a route "
        "back to the VPN. The internet never sees members' addresses.",
        "0",
    ),
    Option(
        "EXIT_NODE",
        parsers.node_ids,
        "",
        "Node by which everything leaves, or several in order of preference, separated by commas. Nothing "
        "else leaves this machine, except control traffic and replies to connections from outside. Requires "
        "libnftables. See docs/exits.md.",
        "gw-1,gw-2",
    ),
    Option(
        "EXIT_ALLOW_LAN",
        parsers.boolean,
        "0",
        "With EXIT_NODE, packets to private networks that this host is connected to may leave there.",
        "1",
    ),
    Option(
        "POLICY_FILE",
        parsers.path,
        None,
        "A policy, beside that of the registry: each of them must permit a connection. Use it with a "
        "contract that has no policy, and the same file on all nodes.",
        "/etc/dstack-vpn/policy.json",
    ),
    Option("KEEP_INTERFACE", parsers.boolean, "0", "Keep the tunnel up when the daemon ends.", "1"),
    Option(
        "TRANSPORT",
        parsers.transport,
        "auto",
        "Transport to peers: auto uses UDP, and a relay of the peer if UDP does not work; udp, tcp and tls "
        "use only that transport.",
        "auto",
    ),
    Option(
        "RELAY_LISTEN",
        parsers.relay_listen,
        None,
        "Address at which peers can reach this node over TCP or TLS, in addition to UDP. With a tls:// URL, "
        "the node creates a certificate and logs its pin; ?cert=FILE&key=FILE uses one from files, and "
        "?cert=dstack one from the dstack guest agent.",
        "tls://0.0.0.0:443",
    ),
    Option(
        "RELAY_MAX_CONNECTIONS",
        parsers.number(1, 65535),
        "1024",
        "Maximum number of concurrent UDP sources or connections.",
        "1024",
    ),
    Option(
        "RELAY_MAX_PER_SOURCE",
        parsers.number(1, 65535),
        "256",
        "Maximum number of these from one IPv4 address or IPv6 /64. Clients behind a gateway count as one.",
        "256",
    ),
    Option(
        "FWMARK",
        parsers.number(1, 2**32 - 1),
        None,
        "Mark of control traffic (SO_MARK), for a routing rule that excludes it from a full tunnel: the "
        "packets of WireGuard, of relays and to RPC endpoints. With EXIT_NODE, the default is 11800.",
        "51820",
    ),
    Option(
        "RELAY_OFFLOAD",
        parsers.boolean,
        "1",
        "Use recvmmsg, UDP_GRO and UDP_SEGMENT if the kernel supports them.",
        "1",
    ),
    Option(
        "DSTACK_SIMULATOR_ENDPOINT",
        str,
        None,
        "Path of the dstack guest agent's socket if not the default, or URL of a simulator, for "
        "WIREGUARD_PRIVATE_KEY=dstack and ?cert=dstack.",
        "/var/run/dstack.sock",
    ),
    Option(
        "PEER_ENDPOINTS",
        parsers.endpoints,
        "",
        "Endpoints by node id; they override the contract's. A node's relays follow its UDP address.",
        "db=192.0.2.10:51820,web-1=vpn.example.org:51820,tls://vpn.example.org:443",
    ),
    Option(
        "PEER_ENDPOINT_TEMPLATE",
        parsers.template,
        None,
        "Endpoint of a peer without any other endpoint.",
        "{node_id}.vpn.internal:51820",
    ),
    Option(
        "PERSISTENT_KEEPALIVE",
        parsers.seconds(0, 65535),
        "0",
        "Time between keepalives to each peer: 25s behind NAT, else 0. A plain number is in seconds.",
        "25s",
    ),
    Option("HEALTH_CHECK_HOST", parsers.host, "127.0.0.1", "Address of the HTTP server.", "127.0.0.1"),
    Option(
        "HEALTH_CHECK_PORT",
        parsers.number(0, 65535),
        "8080",
        "TCP port of the HTTP server; 0 disables it.",
        "8080",
    ),
    Option(
        "DNS_PORT",
        parsers.number(0, 65535),
        "53",
        "Port of the DNS responder on the node's tunnel addresses; 0 disables it.",
        "53",
    ),
    Option(
        "DNS_SUFFIX",
        parsers.suffix,
        "vpn.internal",
        "Zone of the nodes' names: NODE_ID.DNS_SUFFIX.",
        "vpn.internal",
    ),
    Option(
        "DNS_LISTEN",
        parsers.resolvers,
        "",
        "Additional addresses of the DNS responder, such as for containers; it answers private sources.",
        "172.30.0.2,127.0.0.1:5353",
    ),
    Option(
        "DNS_UPSTREAM",
        parsers.resolvers,
        "",
        "Resolvers for names outside of DNS_SUFFIX; without any, such queries are refused.",
        "9.9.9.9,[2620:fe::fe]:53",
    ),
    Option(
        "API_TOKEN",
        parsers.api_token,
        None,
        "Token that HTTP clients must send (Authorization: Bearer), except for /live, /ready and /health.",
        "the output of 'openssl rand -hex 32'",
        secret=True,
    ),
    Option(
        "API_OPEN_TO",
        parsers.open_to,
        "loopback",
        "Clients that need no token: loopback (processes of root and of the daemon's user on this machine), "
        "users (all its processes), vpn (members, by tunnel address), separated by commas, or none. Requests "
        "that a proxy forwards always need it. If a proxy runs as root here, set none.",
        "loopback,vpn",
    ),
    Option(
        "API_TRUSTED_PROXIES",
        parsers.networks,
        "127.0.0.0/8,::1/128",
        "Reverse proxies that may use /auth without a token, and whose X-Forwarded-For is trusted there.",
        "127.0.0.1/32,172.18.0.0/16",
    ),
    Option(
        "STATE_DIR",
        parsers.path,
        "/var/lib/dstack-vpn",
        "Directory of the registry's state and of backups.",
        "/var/lib/dstack-vpn",
    ),
    Option(
        "AUDIT_KEEP_DAYS",
        parsers.number(1, 36_500, " days"),
        "400",
        "Number of days for which the audit log's records are kept.",
        "400",
    ),
    Option(
        "AUDIT_KEEP_MB",
        parsers.number(1, 1_000_000, " MB"),
        "64",
        "Maximum size of the audit log in MB. Records that others can cause are cut first, then the oldest.",
        "64",
    ),
    Option(
        "WIREGUARD_CONFIG",
        parsers.path,
        None,
        "The wg-quick file that the daemon updates; default: /etc/wireguard/INTERFACE.conf.",
        "/etc/wireguard/wg0.conf",
    ),
    Option(
        "LOG_LEVEL",
        parsers.choice(*LEVELS),
        "info",
        "Least severe level to log. LOG_LEVEL_CHAIN and so on set it for "
        f"a single component ({', '.join(COMPONENTS)}).",
        "info",
    ),
    Option(
        "LOG_FORMAT",
        parsers.choice("auto", "json", "console"),
        "auto",
        "json lines, or readable console output; auto is console in a terminal.",
        "json",
    ),
)
