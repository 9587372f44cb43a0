"""Generate the tables of log lines and events: docs/logs.md, and the events in docs/api.md.

The definition of an event (`core.observe.events`) has its level, fields, meaning and action. For a
line that is only logged, `scan` finds the level and the fields at the call, and `MEANINGS` has the
rest. Both must name the same lines, and no call may log the name of an event.
"""

import ast
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from dstack_vpn.core.observe.event import Event
from dstack_vpn.core.observe.events import EVENTS
from dstack_vpn.daemon.observe.event_logger import LOGGED_AS

LEVELS: Final = ("debug", "info", "warning", "error")
LOGGERS: Final = frozenset({"_log", "log", "_rate_limited"})

MEANINGS: Final[Mapping[str, tuple[str, str]]] = {
    "audit.forgot": (
        "The oldest records of the audit log were removed: their retention time or size is exceeded.",
        "",
    ),
    "audit.trouble": (
        "The audit log cannot be written; up to 20,000 records wait in memory.",
        "Free space in STATE_DIR, or make it writable.",
    ),
    "brake.unconfirmed": (
        "No other endpoint confirmed the held removals; the peers stay.",
        "Add a second endpoint to RPC_URL.",
    ),
    "chain.clock_off": (
        "This machine's clock and the chain's clock differ.",
        "Synchronise the clock (chrony, systemd-timesyncd): expiry depends on it.",
    ),
    "chain.first_block_unknown": (
        "An endpoint keeps too little history to find the contract's first block.",
        "Set START_BLOCK, or use an endpoint with more history.",
    ),
    "chain.foreign_logs": (
        "An endpoint sends logs outside of the filter; they are ignored.",
        "Replace the endpoint.",
    ),
    "chain.logs_unseen": (
        "The logs of a block could not be fetched; the next resync compares the registry.",
        "",
    ),
    "chain.log_refused": ("A log of the contract cannot be decoded; it is ignored.", ""),
    "chain.reload": ("The node is too far behind to follow events; it reads the whole registry again.", ""),
    "config.not_published": (
        "The settings cannot be written to STATE_DIR, so other commands do not find them.",
        "Check STATE_DIR.",
    ),
    "config.secret_in_environment": (
        "A secret is set in the environment, which more processes can read than a file.",
        "Put it into a file and set NAME_FILE to its path.",
    ),
    "config.unknown_variable": (
        "An environment variable has nearly the name of a setting, and is ignored.",
        "Correct its name, or remove it.",
    ),
    "device.addresses": ("The interface has these addresses now.", ""),
    "device.adopted": ("The interface of an earlier run was adopted, with its sessions.", ""),
    "device.down": (
        "The interface was down or missing; it is set up again.",
        "Find out which program changed it.",
    ),
    "device.edited": (
        "Another program changed the device's key, port, addresses or routes; they are restored.",
        "Find out which program changed them.",
    ),
    "device.left_alone": (
        "The interface belongs to another program, or could not be reset; it is not touched.",
        "Choose another INTERFACE; `dstack-vpn doctor` names the owner.",
    ),
    "device.no_ipv6": (
        "This machine has no IPv6: the tunnel carries IPv4 only.",
        "Enable IPv6 (sysctl net.ipv6.conf.all.disable_ipv6), or ignore this.",
    ),
    "device.outdated": (
        "This version of wireguard-go can stall for a minute.",
        "Install 0.0.20231211 or newer.",
    ),
    "device.route_taken": (
        "A route of another program covers addresses of the tunnel; it is not touched.",
        "Remove that route, or choose another VPN_CIDR on all nodes.",
    ),
    "device.started": ("wireguard-go was started.", ""),
    "device.trouble": (
        "WireGuard or its interface failed; the operation is retried.",
        "Read `problem`; `dstack-vpn doctor` names missing requirements.",
    ),
    "device.up": ("The interface is up; `restarts` counts how often it was set up again.", ""),
    "dns.listening": ("The DNS server listens at this address.", ""),
    "dns.stranger": (
        "A DNS query from outside of the tunnel was dropped.",
        "None, or block the port in a firewall.",
    ),
    "dns.trouble": ("The DNS server cannot listen at an address; it retries.", "Set another DNS_PORT, or 0."),
    "endpoint.unresolved": (
        "The host name of a peer's endpoint cannot be resolved; it is retried.",
        "Check the name.",
    ),
    "endpoints.not_kept": ("The peers' last endpoints cannot be stored.", "Check STATE_DIR."),
    "endpoints.unknown": ("The peers' last endpoints cannot be read; peers have to connect first.", ""),
    "exit.edited": (
        "Another program removed or edited the kill switch of EXIT_NODE; it is set again.",
        "Find out which program changed it.",
    ),
    "exit.trouble": ("The kill switch of EXIT_NODE can't be set, so nothing leaves.", "Read `problem`."),
    "firewall.applied": ("The packet filter's table equals the settings.", ""),
    "firewall.gone": (
        "Another program removed or edited the packet filter's table; it is created again.",
        "Find out which program changed it.",
    ),
    "firewall.no_forwarding": (
        "This machine does not forward the packets of its plain clients, or those to its networks.",
        "Read `problem`.",
    ),
    "firewall.none": (
        "This machine has no packet filter.",
        "Install libnftables, or rely on the blackhole routes alone.",
    ),
    "firewall.trouble": ("The packet filter rejected the table; it is retried.", "Read `problem`."),
    "handshakes.initiated": ("Handshakes with the peers of a new device were initiated.", ""),
    "key.agent_waited_for": (
        "The dstack guest agent does not reply yet; it is queried again.",
        "Mount its socket.",
    ),
    "key.announced": ("The registry has this node's next key; the node changes to it.", ""),
    "key.derived": ("The dstack guest agent derived the WireGuard key.", ""),
    "key.made": ("A WireGuard key was generated; its public key must be registered.", "Run `node register`."),
    "key.not_applied": (
        "The device or the disk did not accept the node's new key; it is retried.",
        "If this persists, check STATE_DIR and the interface.",
    ),
    "key.old": (
        "The key has reached KEY_MAX_AGE, and this node cannot change it.",
        "`problem` names the missing setting; or run `node rotate-key`.",
    ),
    "key.renewing": ("The key has reached its age limit: `node rotate-key` was started.", ""),
    "key.undated": ("The endpoint did not report when the key was set; it is queried again.", ""),
    "key.unreadable": (
        "A pending key in STATE_DIR cannot be read.",
        "Run `node rotate-key` to generate another.",
    ),
    "members.isolated": (
        "No endpoint has confirmed the registry for MAX_STALENESS: all peers are removed (STALE_POLICY=isolate).",
        "Restore an endpoint.",
    ),
    "members.rejoined": ("The registry was read again after an isolation.", ""),
    "members.too_old": (
        "The state in STATE_DIR is older than MAX_STALENESS, or from the future: it admits no peers.",
        "None, once an endpoint replies; otherwise check whether the disk was rolled back.",
    ),
    "membership.ok": ("This node is a member.", ""),
    "membership.problem": (
        "This node is not a member; `problem` names the reason.",
        "Register the node, or its key.",
    ),
    "node.drain_failed": ("A step of the shutdown failed or timed out.", "Read `problem`."),
    "node.hardened": ("Which protections of the process memory are active: core dumps, debuggers, swap.", ""),
    "node.ipv6_only": (
        "A token id is beyond VPN_CIDR; the node has an IPv6 address only.",
        "Choose a larger VPN_CIDR on all nodes.",
    ),
    "node.restored": ("The members were restored from STATE_DIR, before the chain was read.", ""),
    "node.stopped": ("The daemon has stopped.", ""),
    "node.stopping": ("The daemon is shutting down.", ""),
    "node.unsurveyed": (
        "The check of the host before the start failed; ownership of the interface is checked regardless.",
        "Read `problem`; `dstack-vpn doctor` names missing requirements.",
    ),
    "policy.file_read": ("The node uses the new content of POLICY_FILE.", ""),
    "policy.file_refused": (
        "POLICY_FILE has changed and can't be used. Its last good policy stays in force.",
        "Correct the file. `dstack-vpn policy check FILE` shows problems.",
    ),
    "quorum.contested": (
        "Endpoints contradict each other about tokens that one of them grants; the tokens stay out.",
        "/health names the endpoints.",
    ),
    "quorum.unanswered": ("An endpoint did not reply to a question about tokens.", ""),
    "registry.resync_differs": (
        "The contract's state differs from the followed events; the contract's state is applied.",
        "If it repeats, replace the endpoint: it loses logs.",
    ),
    "relay.accept_failed": ("The relay could not accept a connection.", "Raise `ulimit -n`."),
    "relay.carried_nothing": (
        "Connections to an upstream end before any data arrives; the pauses grow.",
        "Follow the line's advice: the URL's scheme, the gateway's backend, a limit.",
    ),
    "relay.carries": ("Data arrives from an upstream again.", ""),
    "relay.certificate_invalid": ("The certificate has expired, or is not valid yet.", "Renew it."),
    "relay.certificate_loaded": ("A new certificate is in use.", ""),
    "relay.certificate_made": ("The relay generated a certificate.", ""),
    "relay.certificate_refused": (
        "A new certificate is invalid; the previous one stays in use.",
        "Correct the files.",
    ),
    "relay.closed": ("A relay connection ended.", ""),
    "relay.connect_failed": (
        "An upstream is unreachable; the next one is tried.",
        "Check the upstream if this persists.",
    ),
    "relay.displaced": (
        "The relay is full: the source with the most connections lost one to a new source.",
        "Raise RELAY_MAX_CONNECTIONS if many clients share that source address.",
    ),
    "relay.few_descriptors": (
        "The limit of file descriptors is lower than the limit of connections.",
        "Raise `ulimit -n`.",
    ),
    "relay.limit": (
        "The relay has reached its limit of clients.",
        "Raise RELAY_MAX_CONNECTIONS or RELAY_MAX_PER_SOURCE.",
    ),
    "relay.listening": ("The relay listens at this address; clients verify its certificate by `pin`.", ""),
    "relay.lost": ("A relay connection broke; a new one is opened.", ""),
    "relay.probe_failed": ("UDP does not reach the peer yet.", ""),
    "relay.refused": ("A client did not speak udp-over-tcp, or no TLS; it was disconnected.", ""),
    "relay.reload_failed": (
        "SIGHUP: the new settings are invalid; the previous ones stay in use.",
        "Correct the settings that `problems` names.",
    ),
    "relay.reloaded": ("SIGHUP: the upstreams were read again.", ""),
    "relay.slow": (
        "The kernel lacks a feature that the relay's fast path needs.",
        "Use a newer kernel, or accept lower throughput.",
    ),
    "relay.source_refused": ("No socket could be opened for a UDP source.", "Raise `ulimit -n`."),
    "relay.stalled": (
        "An upstream takes datagrams and returns none; another one is used.",
        "Check that relay.",
    ),
    "relay.stopping": ("The relay is shutting down.", ""),
    "relay.trouble": ("The node's relay cannot listen; it retries.", "Follow the line's advice."),
    "relay.unopened": ("No UDP socket could be opened for a client.", "Raise `ulimit -n`."),
    "relay.unreachable": ("No upstream is reachable.", "Check RELAY_TO, and the network."),
    "relay.upstream": ("This upstream is in use from now on.", ""),
    "roles.unmeasured": (
        "Round trips to the members of roles can't be measured: there is no ICMP socket.",
        "Set net.ipv4.ping_group_range, or add CAP_NET_RAW.",
    ),
    "rpc.usage_not_kept": (
        "The use of RPC endpoints cannot be stored; after a restart its days begin again.",
        "Check STATE_DIR.",
    ),
    "rpc.usage_unknown": (
        "The stored use of RPC endpoints cannot be read; its days begin again.",
        "",
    ),
    "rpc.connected": ("A session with an RPC endpoint began.", ""),
    "rpc.endpoint_left": (
        "An endpoint failed; the next one is tried after a pause.",
        "Replace the endpoint if this persists.",
    ),
    "store.other_registry": (
        "STATE_DIR belongs to another registry; it is not used.",
        "Set a separate STATE_DIR.",
    ),
    "store.rebuilt": (
        "The store was damaged; it was moved aside and is built again from the chain.",
        "Check the disk.",
    ),
    "store.trouble": (
        "STATE_DIR cannot be written; the tunnel keeps working.",
        "Free space, or make it writable.",
    ),
    "transport.no_relay": ("The relay client of a peer cannot be started.", "Read `problem`."),
    "web.failed": ("A request failed because of a defect in dstack-vpn.", "Report it, with the line."),
    "web.listening": ("The HTTP server listens at this address.", ""),
    "web.trouble": (
        "The HTTP server cannot listen; it retries.",
        "Set another HEALTH_CHECK_HOST or HEALTH_CHECK_PORT, or HEALTH_CHECK_PORT=0.",
    ),
}
"""The meaning and the action by log line. An empty action means that no action is needed."""

HEAD: Final = """\
<!-- Made by scripts/generate_docs.py from the code and scripts/logbook.py: run `make docs`. -->
# Logs

Each line is one JSON object (`LOG_FORMAT=json`); in a terminal it is a line of text. Each has
`timestamp`, `level`, `component` and `event`. Event names are stable across versions. `LOG_LEVEL`
and `LOG_LEVEL_<COMPONENT>` set the lowest level that is logged.

- **`cause`** is the chain event that led to a line, as block and log index. It is the same on every
  node, in `chain.event`, `peer.set` and `peer.removed`, in `/events` and in the audit log.
  `latency_ms` is the time from that event's arrival in the daemon to the device's reply.
- **`token`**, **`node`**, **`peer`** (a public key) and **`block`** identify the subject.
- A warning or an error that repeats within a minute is omitted. The next one has `repeated`, the
  number of omitted lines. Lines that unauthenticated traffic can trigger are logged once a minute,
  with `left_out`.
- No secret is ever logged. Text from the chain appears only as an escaped value.

| event | level | component | fields | meaning | what to do |
|---|---|---|---|---|---|
"""


@dataclass
class Line:
    """A line that is only logged, with the levels and fields of all its calls."""

    name: str
    component: str
    levels: set[str] = field(default_factory=set)
    fields: set[str] = field(default_factory=set)


def document(sources: Path, areas: Mapping[str, str]) -> str:
    """Return docs/logs.md; raises `ValueError` if code, `MEANINGS` and events do not match."""
    found = scan(sources, areas)
    if twice := found.keys() & EVENTS.keys():
        raise ValueError(f"these are events: publish them, and do not log them as well: {sorted(twice)}")
    if found.keys() != MEANINGS.keys():
        raise ValueError(
            "scripts/logbook.py: add new log lines to MEANINGS, and remove those that no call logs: "
            f"{sorted(found.keys() ^ MEANINGS.keys())}"
        )
    rows = {line.name: _row_of_line(line) for line in found.values()}
    rows |= {name: _row_of_event(event) for name, event in EVENTS.items()}
    return HEAD + "".join(rows[name] for name in sorted(rows))


def events() -> str:
    """Return the table of events for docs/api.md."""
    rows = (
        f"| `{name}` | {_fields(event.field_names())} | {meaning(event)} |\n"
        for name, event in sorted(EVENTS.items())
    )
    return "| event | fields | meaning |\n|---|---|---|\n" + "".join(rows)


def meaning(event: type[Event]) -> str:
    """Return the first paragraph of an event's docstring."""
    return " ".join((event.__doc__ or "").partition("\n\n")[0].split()).replace("``", "`")


def _fields(names: Iterable[str]) -> str:
    return ", ".join(f"`{name.replace('latency', 'latency_ms')}`" for name in names)


def _row_of_event(event: type[Event]) -> str:
    renamed = (LOGGED_AS.get(name, name) for name in event.field_names())
    cells = (
        f"`{event.name}`",
        event.level,
        event.logger,
        _fields(renamed),
        meaning(event),
        event.action or "-",
    )
    return f"| {' | '.join(cells)} |\n"


def _row_of_line(line: Line) -> str:
    meant, action = MEANINGS[line.name]
    levels = ", ".join(level for level in LEVELS if level in line.levels)
    fields = _fields(sorted(line.fields - {"component"}))
    return f"| `{line.name}` | {levels} | {line.component} | {fields} | {meant} | {action or '-'} |\n"


def scan(sources: Path, areas: Mapping[str, str]) -> dict[str, Line]:
    """Return the lines by name.

    ``areas`` maps the first part of a name to the component, if the two differ.
    """
    found: dict[str, Line] = {}
    for path in sorted(sources.rglob("*.py")):
        tree = ast.parse(path.read_text())
        of_file = _component(tree)
        for level, call in _calls(tree):
            for name in _names(call.args[0], path):
                area = name.partition(".")[0]
                component = _component(call) or of_file or areas.get(area, area)
                line = found.setdefault(name, Line(name, component))
                line.levels.add(level)
                line.fields |= {keyword.arg for keyword in call.keywords if keyword.arg}
    return dict(sorted(found.items()))


def _component(tree: ast.AST) -> str | None:
    """Return the component that a ``get_logger`` call or the given call names."""
    for node in ast.walk(tree):
        is_logger = isinstance(node, ast.Call) and ast.unparse(node.func).endswith("get_logger")
        if isinstance(node, ast.Call) and (node is tree or is_logger):
            for keyword in node.keywords:
                if keyword.arg == "component" and isinstance(keyword.value, ast.Constant):
                    return str(keyword.value.value)
    return None


def _calls(tree: ast.Module) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            logger = ast.unparse(node.func.value).rpartition(".")[2]
            if node.func.attr in LEVELS and logger in LOGGERS and node.args:
                yield node.func.attr, node


def _names(argument: ast.expr, path: Path) -> Iterator[str]:
    match argument:
        case ast.Constant(str(name)):
            yield name
        case ast.IfExp(_, ast.Constant(str(one)), ast.Constant(str(other))):
            yield from (one, other)
        case _:
            raise ValueError(
                f"{path.name}:{argument.lineno}: the call must have the line's name as a literal"
            )
