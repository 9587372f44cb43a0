"""The tables of log lines and events: docs/logs.md, and the events in docs/api.md.

An event (`core.observe.events`) has its level, fields, meaning and advice in its definition. A line that is
only logged has its level and fields at its call, found by `scan`, and the rest in `MEANINGS`. The two must
name the same lines, and no call may log the name of an event.
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

NOTHING: Final = ""
"""There is nothing to do."""

MEANINGS: Final[Mapping[str, tuple[str, str]]] = {
    "audit.forgot": ("The audit log's oldest records are past their keeping and gone.", NOTHING),
    "audit.trouble": (
        "The audit log can't be written; what happens waits in memory, up to 20,000 records.",
        "Make room in STATE_DIR, or make it writable.",
    ),
    "brake.unconfirmed": (
        "No second reading of the registry could be had; held peers stay.",
        "Name a second endpoint in RPC_URL.",
    ),
    "chain.clock_off": (
        "This machine's clock and the chain's are apart.",
        "Set the clock (chrony, systemd-timesyncd): expiry is judged by it.",
    ),
    "chain.first_block_unknown": (
        "An endpoint keeps too little history to find the contract's first block.",
        "Set START_BLOCK, or use an endpoint with more history.",
    ),
    "chain.foreign_logs": (
        "An endpoint sends logs that were not asked for; they are ignored.",
        "Look for another endpoint.",
    ),
    "chain.logs_unseen": ("A block's logs could not be asked for; the next audit compares.", NOTHING),
    "chain.log_refused": ("A log of the contract does not decode; it changes nothing.", NOTHING),
    "chain.reload": ("The node is too far behind to follow events, and reads the registry again.", NOTHING),
    "config.secret_in_environment": (
        "A secret stands in the environment, which more can read than a file.",
        "Give its file's path as NAME_FILE.",
    ),
    "device.addresses": ("The interface has these addresses now.", NOTHING),
    "device.adopted": ("An interface from before this start was taken over, with its sessions.", NOTHING),
    "device.down": ("The interface was down or gone; it is set up again.", "Find out who took it down."),
    "device.edited": (
        "Somebody changed the device's key or port, or its addresses or routes; they are right again.",
        "Find out who did.",
    ),
    "device.left_alone": (
        "The interface is not the daemon's own, or could not be left blank; it stays.",
        "Choose another INTERFACE; `dstack-vpn doctor` says whose it is.",
    ),
    "device.no_ipv6": (
        "This machine has no IPv6: the tunnel carries IPv4 alone.",
        "Allow IPv6 (sysctl net.ipv6.conf.all.disable_ipv6), or leave it.",
    ),
    "device.outdated": ("This wireguard-go can stall for a minute.", "Install 0.0.20231211 or newer."),
    "device.route_taken": (
        "A route of another program takes packets that belong into the tunnel; it is left as it is.",
        "Remove that route, or choose another VPN_CIDR on all nodes.",
    ),
    "device.started": ("wireguard-go was started.", NOTHING),
    "device.trouble": (
        "WireGuard or its interface refuses or is gone; it is tried again.",
        "Read `problem`; `dstack-vpn doctor` says what is missing.",
    ),
    "device.up": ("The interface is up; `restarts` counts how often it had to be set up anew.", NOTHING),
    "dns.listening": ("Names are answered at this address.", NOTHING),
    "dns.stranger": (
        "Somebody outside of the tunnel asked for names and got no answer.",
        "Nothing, or keep it out by a firewall.",
    ),
    "dns.trouble": ("Names can't be served at an address; it is tried again.", "Another DNS_PORT, or 0."),
    "endpoint.unresolved": ("A peer's host name has no address; it is asked for again.", "Check the name."),
    "endpoints.not_kept": ("Where peers were last reached can't be written down.", "See STATE_DIR."),
    "endpoints.unknown": ("Where peers were last reached can't be read; they are waited for.", NOTHING),
    "firewall.applied": ("The packet filter's table is as the settings say.", NOTHING),
    "firewall.gone": (
        "Another program removed or edited the packet filter's table; it is made again.",
        "Find out which one did.",
    ),
    "firewall.none": (
        "There is no packet filter here.",
        "Install nft, or accept the blackhole routes alone.",
    ),
    "firewall.trouble": ("The packet filter refuses; it is tried again.", "Read `problem`."),
    "key.agent_waited_for": (
        "The dstack guest agent does not answer yet; it is asked again.",
        "Mount its socket.",
    ),
    "key.unreadable": ("A key that waits in STATE_DIR can't be read.", "`node rotate-key` makes another."),
    "key.derived": ("The dstack guest agent has derived our WireGuard key.", NOTHING),
    "key.not_applied": (
        "The device or the disk did not take the node's new key; it is tried again.",
        "If that lasts, check STATE_DIR and the interface.",
    ),
    "key.announced": ("Our next key is in the registry; it is taken in a moment.", NOTHING),
    "key.old": (
        "Our key is as old as KEY_MAX_AGE allows, and this node can't change it.",
        "`problem` says what is missing; or run `node rotate-key`.",
    ),
    "key.renewing": ("Our key is old: `node rotate-key` was started.", NOTHING),
    "key.undated": ("The endpoint did not tell when our key was set; it is asked again.", NOTHING),
    "key.made": ("A WireGuard key was made; its public key is to be registered.", "`node register`."),
    "node.unsurveyed": (
        "The host could not be looked at before the start; the interface is still proven first.",
        "Read `problem`; `dstack-vpn doctor` says what is missing.",
    ),
    "node.hardened": ("Which of core dumps, debuggers and swap are kept away from the memory.", NOTHING),
    "members.isolated": (
        "No endpoint has confirmed the members for MAX_STALENESS: all peers are out (STALE_POLICY=isolate).",
        "Bring an endpoint back.",
    ),
    "members.rejoined": ("The chain was read again after an isolation.", NOTHING),
    "members.too_old": (
        "What STATE_DIR knows is older than MAX_STALENESS, or from the future: it makes nobody a member.",
        "Nothing, once an endpoint answers; else ask whether the disk was rolled back.",
    ),
    "membership.ok": ("This node is a member.", NOTHING),
    "membership.problem": ("This node is no member; `problem` says why.", "Register it, or its key."),
    "node.drain_failed": ("A step of the orderly end took too long, or failed.", "Read `problem`."),
    "node.ipv6_only": ("A token is beyond VPN_CIDR and has an IPv6 address only.", "A larger VPN_CIDR."),
    "node.restored": ("Members came back from STATE_DIR, before the chain was read.", NOTHING),
    "node.stopped": ("The daemon has ended.", NOTHING),
    "node.stopping": ("The daemon was asked to end.", NOTHING),
    "config.not_published": (
        "Commands will not find the daemon's settings in STATE_DIR.",
        "Check STATE_DIR.",
    ),
    "config.unknown_variable": (
        "The environment sets a variable that is nearly a setting, and is not one.",
        "Correct its name, or remove it.",
    ),
    "handshakes.initiated": ("Peers of a new device were called, so that sessions begin at once.", NOTHING),
    "quorum.contested": (
        "Endpoints do not agree on tokens that one of them grants: they stay out.",
        "See /health for which endpoint stands alone.",
    ),
    "quorum.unanswered": ("An endpoint has not answered what it was asked about tokens.", NOTHING),
    "registry.resync_differs": (
        "The contract says otherwise than the events did; the contract counts.",
        "None once; often: use another endpoint, which loses logs.",
    ),
    "relay.accept_failed": ("A connection to the relay could not be taken.", "Raise `ulimit -n`."),
    "relay.carried_nothing": (
        "Connections to an upstream end without having carried anything; pauses grow.",
        "Do what the line says: the URL's scheme, the gateway's backend, a limit.",
    ),
    "relay.carries": ("An upstream carries again after connections that carried nothing.", NOTHING),
    "relay.certificate_invalid": ("The certificate has expired, or is not valid yet.", "Renew it."),
    "relay.certificate_loaded": ("A new certificate is served from now on.", NOTHING),
    "relay.certificate_made": ("The relay has made itself a certificate.", NOTHING),
    "relay.certificate_refused": ("A new certificate can't be used; the old one stays.", "Mend the files."),
    "relay.closed": ("A relay connection has ended.", NOTHING),
    "relay.connect_failed": ("An upstream can't be reached; others are tried.", "Check it, if it stays so."),
    "relay.displaced": (
        "The relay is full: the source with the most connections has lost one to another source.",
        "Raise RELAY_MAX_CONNECTIONS, if that source is a gateway that many share.",
    ),
    "relay.few_descriptors": ("Fewer descriptors are allowed than connections.", "Raise `ulimit -n`."),
    "relay.limit": (
        "The relay has no room for another client.",
        "Raise RELAY_MAX_CONNECTIONS or …_PER_SOURCE.",
    ),
    "relay.listening": ("The relay takes connections; `pin` is what others have to trust.", NOTHING),
    "relay.lost": ("A relay connection broke; another is made.", NOTHING),
    "relay.probe_failed": ("UDP does not reach the peer yet.", NOTHING),
    "relay.refused": ("A client spoke something else than udp-over-tcp, or no TLS.", NOTHING),
    "relay.reload_failed": ("SIGHUP: the new settings are wrong; the old ones stay.", "Mend `problems`."),
    "relay.reloaded": ("SIGHUP: the upstreams were read again.", NOTHING),
    "relay.slow": ("The kernel lacks what makes the relay fast.", "A newer kernel, or accept it."),
    "relay.source_refused": ("A UDP source could not be given a socket.", "Raise `ulimit -n`."),
    "relay.stalled": ("An upstream takes datagrams and answers none; it is left.", "Look at that relay."),
    "relay.stopping": ("The relay was asked to end.", NOTHING),
    "relay.trouble": ("The node's own relay can't listen; it is tried again.", "Do what the line says."),
    "relay.unopened": ("A client's UDP socket could not be made.", "Raise `ulimit -n`."),
    "relay.unreachable": ("No upstream can be reached.", "Check RELAY_TO, and the way there."),
    "relay.upstream": ("This upstream is used from now on.", NOTHING),
    "rpc.connected": ("A session with an RPC endpoint has begun.", NOTHING),
    "rpc.endpoint_left": (
        "An endpoint failed; the next one is tried after a pause.",
        "Another, if it lasts.",
    ),
    "store.other_registry": ("STATE_DIR belongs to another registry; it is not used.", "Its own STATE_DIR."),
    "store.rebuilt": (
        "The store was damaged; it is moved aside and built anew from the chain.",
        "Check the disk.",
    ),
    "store.trouble": ("STATE_DIR can't be written; the tunnel goes on.", "Make room, or make it writable."),
    "transport.no_relay": ("A peer's relay can't be set up.", "Read `problem`."),
    "web.failed": ("A request could not be answered, by a fault of ours.", "Report it, with the line."),
    "web.trouble": (
        "HTTP can't be served; it is tried again.",
        "Another HEALTH_CHECK_HOST or HEALTH_CHECK_PORT, or HEALTH_CHECK_PORT=0.",
    ),
    "web.listening": ("HTTP is served at this address.", NOTHING),
}
"""By event: what it means, and what to do."""

HEAD: Final = """\
<!-- Made by scripts/generate_docs.py from the code and scripts/logbook.py: run `make docs`. -->
# Logs

One JSON object a line (`LOG_FORMAT=json`; in a terminal, lines for people). Each has `timestamp`, `level`, `component`
and `event`; event names stay the same over versions. `LOG_LEVEL` and `LOG_LEVEL_<COMPONENT>` choose what is logged.

- **`cause`** is the chain event behind a line, as block and log index: the same on every node, in `chain.event`, in
  `peer.set` and `peer.removed`, in `/events`, and in the audit log. `latency_ms` is from that event's arrival in the
  daemon to the device's acknowledgement.
- **`token`**, **`node`**, **`peer`** (a public key) and **`block`** say whom and when it concerns.
- A warning or an error that is the same as one within the last minute is left out; the next one has `repeated`, with how
  many were. What strangers can cause at will is told once a minute, with `left_out`.
- No secret is ever logged; text from the chain is only ever a value, escaped.

| event | level | component | fields | meaning | what to do |
|---|---|---|---|---|---|
"""


@dataclass
class Line:
    """One line that is only logged, wherever that is."""

    name: str
    component: str
    levels: set[str] = field(default_factory=set)
    fields: set[str] = field(default_factory=set)


def document(sources: Path, areas: Mapping[str, str]) -> str:
    """Return docs/logs.md; raises `ValueError` if code, `MEANINGS` and events do not fit."""
    found = scan(sources, areas)
    if twice := found.keys() & EVENTS.keys():
        raise ValueError(f"these are events: publish them, and don't log them as well: {sorted(twice)}")
    if found.keys() != MEANINGS.keys():
        raise ValueError(
            "scripts/logbook.py: add the meaning of new lines to MEANINGS, and remove lines that are gone: "
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
    """Return the lines by name; ``areas`` maps those that are not named after their component."""
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
    """The component that a logger is made with, or a call names."""
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
            raise ValueError(f"{path.name}:{argument.lineno}: the event's name must stand in the call")
