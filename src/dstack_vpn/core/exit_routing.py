"""Policy routing for an exit: our rules, our routing table, and what is in the way.

With EXIT_NODE, every packet without our mark is routed by a table of our own, into the tunnel. Two
rules of each IP version do that, as in wg-quick:

    1180  lookup main, without its default route    networks of this host, and the VPN itself
    1181  not fwmark MARK: lookup 11800             everything else

Control traffic has the mark: the packets of WireGuard, of the relays and of the chain's endpoints.

A rule is ours if it has our protocol number, table and priority. The table is ours if it has only
our routes. A rule of another program that sends packets by their mark, or all packets, to a table
of its own is in the way: two such programs would take packets from each other.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from dstack_vpn.core.ownership import PROTOCOL, UNICAST, Obstacle, RouteFact, blackhole_metric

TABLE: Final = 11_800
"""The routing table for packets without the mark."""
MARK: Final = 11_800
"""The mark of control traffic, if FWMARK does not set another one."""
BY_MAIN: Final = 1180
BY_EXIT: Final = 1181
"""The priorities of the two rules: after those of VRFs, and before those that programs add."""
UNREACHABLE: Final = 7
"""rtnetlink.h: RTN_UNREACHABLE"""
LOOKUP: Final = 1
"""fib_rules.h: FR_ACT_TO_TBL"""

_KERNEL_TABLES: Final = frozenset({253, 254, 255})
"""default, main and local."""


@dataclass(frozen=True, slots=True)
class RuleFact:
    """A policy routing rule."""

    version: int
    """4 or 6."""
    priority: int
    table: int
    action: int = LOOKUP
    protocol: int = 0
    mark: int = 0
    mask: int = 0
    """0: the rule does not look at the mark."""
    inverted: bool = False
    selective: bool = False
    """The rule applies to some sources, destinations, interfaces or users only."""
    suppressed: int = -1
    """Routes of the table with prefixes up to this length are ignored."""

    def __str__(self) -> str:
        parts = [f"{self.priority}:"]
        parts += ["not"] if self.inverted else []
        parts += ["from all"] if not self.selective else []
        parts += [f"fwmark {self.mark:#x}"] if self.mask else []
        parts += [f"lookup {self.table}"] if self.action == LOOKUP else [f"action {self.action}"]
        return " ".join(parts)


@dataclass(frozen=True, slots=True)
class RoutingFacts:
    """The parts of the host's routing that an exit needs."""

    rules: Sequence[RuleFact] = ()
    routes: Sequence[RouteFact] = ()
    """The routes of our table."""
    strict: str | None = None
    """An interface whose reverse path filter drops the replies to marked packets."""


def wanted_rules(mark: int) -> frozenset[RuleFact]:
    """Return the rules that send packets without the mark to our table."""
    return frozenset(
        rule
        for version in (4, 6)
        for rule in (
            RuleFact(version, BY_MAIN, 254, protocol=PROTOCOL, suppressed=0),
            RuleFact(version, BY_EXIT, TABLE, protocol=PROTOCOL, mark=mark, mask=0xFFFF_FFFF, inverted=True),
        )
    )


def is_ours(rule: RuleFact) -> bool:
    """Return whether a rule was made by dstack-vpn."""
    return rule.protocol == PROTOCOL and (rule.priority, rule.table) in {(BY_MAIN, 254), (BY_EXIT, TABLE)}


def is_own_route(route: RouteFact, interface: str, index: int) -> bool:
    """Return whether a route of our table is this interface's; ``index`` is 0 without one."""
    if route.protocol != PROTOCOL:
        return False
    if route.kind == UNREACHABLE:
        return route.metric == blackhole_metric(interface)
    return route.kind == UNICAST and bool(index) and route.index == index


def exit_obstacles(facts: RoutingFacts, interface: str, index: int) -> Iterator[Obstacle]:
    """Yield what is in the way of sending everything by ``interface``.

    ``index`` is the interface's, 0 if there is none.
    """
    seen: set[str] = set()
    for rule in filter(_competes, facts.rules):
        if (text := str(rule)) not in seen:
            seen.add(text)
            yield Obstacle(
                f"the routing rule '{text}' of another program decides where packets leave, as EXIT_NODE "
                "would",
                "stop that program (such as another VPN), or run without EXIT_NODE; see 'ip rule'",
            )
    yield from _table(facts.routes, interface, index)
    if facts.strict is not None:
        yield Obstacle(
            f"the reverse path filter of {facts.strict} would drop the replies to control traffic",
            "sysctl -w net.ipv4.conf.all.src_valid_mark=1 (for a container, in its sysctls)",
        )


def _table(routes: Iterable[RouteFact], interface: str, index: int) -> Iterator[Obstacle]:
    foreign = next((route for route in routes if not is_own_route(route, interface, index)), None)
    if foreign is None:
        return
    if foreign.protocol == PROTOCOL:
        yield Obstacle(
            f"another dstack-vpn in this network namespace has an EXIT_NODE (route {foreign})",
            f"stop that one; if it is left from an earlier run, 'ip route flush table {TABLE}'",
        )
    else:
        yield Obstacle(
            f"the routing table {TABLE} has the route {foreign} of another program",
            "use another table there",
        )


def _competes(rule: RuleFact) -> bool:
    if is_ours(rule) or (rule.action == LOOKUP and rule.table in _KERNEL_TABLES and not rule.mask):
        return False
    return bool(rule.mask) or not rule.selective
