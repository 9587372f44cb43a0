"""The rules and the routing table that send everything by the tunnel (`core.exit_routing`).

They stay if the daemon is killed. Without the interface, packets are unreachable.
"""

import socket
from collections.abc import Awaitable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from dstack_vpn.adapters.device.rtnetlink import (
    ABSENT,
    ALREADY,
    WITHOUT_IPV6,
    network_of,
    route_fact,
    tolerated,
    translated,
)
from dstack_vpn.core.exit_routing import TABLE, UNREACHABLE, RoutingFacts, RuleFact, is_ours, wanted_rules
from dstack_vpn.core.ownership import PROTOCOL, UNICAST, RouteFact, blackhole_metric

if TYPE_CHECKING:
    from pyroute2 import AsyncIPRoute

_FAMILIES: Final = {4: socket.AF_INET, 6: socket.AF_INET6}
_DEFAULTS: Final = {4: "0.0.0.0/0", 6: "::/0"}
_INVERT: Final = 2
"""linux/fib_rules.h: FIB_RULE_INVERT"""
_NO_LENGTH: Final = 0xFFFF_FFFF
_SELECTORS: Final = (
    *("iifname", "oifname", "tun_id", "l3mdev", "uid_range", "ip_proto", "sport_range", "dport_range"),
    "goto",
)
"""The attributes by which a rule applies to some packets only. A rule with ``goto`` looks nothing
up."""
_CONF: Final = Path("/proc/sys/net/ipv4/conf")


async def routing_facts(ipr: "AsyncIPRoute", conf: Path = _CONF) -> RoutingFacts:
    """Return the host's rules, the routes of our table, and the reverse path filter.

    Raises `DeviceError`.
    """
    rules, routes = list[RuleFact](), list[RouteFact]()
    for version in (4, 6):
        rules += await _rules(ipr, version)
        routes += await _routes(ipr, version)
    return RoutingFacts(rules, routes, _strict(conf))


async def set_exit(ipr: "AsyncIPRoute", name: str, index: int, mark: int | None) -> bool:
    """Send packets without the mark into the interface; with None, remove what is ours.

    An ``index`` of 0 leaves only the unreachable routes. Returns whether anything was different.
    Raises `DeviceError`.
    """
    changed, metric = False, blackhole_metric(name)
    wanted = frozenset() if mark is None else wanted_rules(mark)
    for version in _FAMILIES:
        routes = {(r.kind, r.index) for r in await _routes(ipr, version) if _is_own(r, metric, index)}
        ways = set[tuple[int, int]]()
        if mark is not None:
            ways |= {(UNREACHABLE, 0)} | ({(UNICAST, index)} if index else set())
        rules = set(filter(is_ours, await _rules(ipr, version)))
        new = {rule for rule in wanted if rule.version == version}
        # The table before the rules that lead to it.
        for kind, oif in sorted(ways - routes):
            changed |= await _route(ipr, "add", version, _way(kind, oif, metric))
        for rule in sorted(rules - new, key=_priority):
            changed |= await _rule(ipr, "del", rule)
        for rule in sorted(new - rules, key=_priority):
            changed |= await _rule(ipr, "add", rule)
        for kind, oif in sorted(routes - ways):
            changed |= await _route(ipr, "del", version, _way(kind, oif, metric))
    return changed


def _is_own(route: RouteFact, metric: int, index: int) -> bool:
    if route.protocol != PROTOCOL:
        return False
    return route.metric == metric if route.kind == UNREACHABLE else bool(index) and route.index == index


def _priority(rule: RuleFact) -> int:
    return rule.priority


async def _rules(ipr: "AsyncIPRoute", version: int) -> list[RuleFact]:
    found: list[RuleFact] = []
    async with translated("read the routing rules"), tolerated(WITHOUT_IPV6):
        dump = await ipr.rule("dump", family=_FAMILIES[version])
        found += [_rule_fact(message, version) async for message in dump]
    return found


def _rule_fact(message: dict[str, Any], version: int) -> RuleFact:
    suppressed = message.get("suppress_prefixlen")
    mask = message.get("fwmask") or 0
    lengths = message["src_len"] or message["dst_len"] or message["tos"]
    return RuleFact(
        version=version,
        priority=message.get("priority") or 0,
        table=message.get("table") or 0,
        action=message["action"],
        protocol=message.get("protocol") or 0,
        mark=message.get("fwmark") or 0,
        mask=mask,
        inverted=bool(message["flags"] & _INVERT),
        selective=bool(lengths) or any(message.get(name) for name in _SELECTORS),
        suppressed=-1 if suppressed in {None, _NO_LENGTH} else int(suppressed),
    )


async def _routes(ipr: "AsyncIPRoute", version: int) -> list[RouteFact]:
    found: list[RouteFact] = []
    async with translated("read the routes"), tolerated(WITHOUT_IPV6 | ABSENT):
        async for message in await ipr.route("dump", family=_FAMILIES[version], table=TABLE):
            fact = route_fact(message, str(network_of(message)))
            # IPv6 lists unreachable routes with the loopback interface.
            found.append(
                RouteFact(fact.prefix, fact.kind, fact.protocol, fact.metric)
                if fact.kind == UNREACHABLE
                else fact
            )
    return found


def _way(kind: int, oif: int, metric: int) -> dict[str, object]:
    return {"oif": oif} if kind == UNICAST else {"type": "unreachable", "priority": metric}


async def _route(ipr: "AsyncIPRoute", verb: str, version: int, way: dict[str, object]) -> bool:
    fields = {"family": _FAMILIES[version], "dst": _DEFAULTS[version], "table": TABLE, "proto": PROTOCOL}
    request = ipr.route(verb, **fields, **way)
    return await _done(f"{verb} the route of EXIT_NODE for IPv{version}", request, verb, version)


async def _rule(ipr: "AsyncIPRoute", verb: str, rule: RuleFact) -> bool:
    spec: dict[str, object] = {"priority": rule.priority, "table": rule.table, "protocol": rule.protocol}
    if rule.mask:
        spec |= {"fwmark": rule.mark, "fwmask": rule.mask}
    if rule.suppressed >= 0:
        spec["FRA_SUPPRESS_PREFIXLEN"] = rule.suppressed
    flags = _INVERT if rule.inverted else 0
    request = ipr.rule(verb, family=_FAMILIES[rule.version], action=rule.action, flags=flags, **spec)
    return await _done(f"{verb} the routing rule {rule}", request, verb, rule.version)


async def _done(doing: str, request: Awaitable[object], verb: str, version: int) -> bool:
    """Await a change. Return False if there was nothing to do, or the host has no IPv6."""
    from pyroute2.netlink.exceptions import NetlinkError

    passed = ABSENT if verb == "del" else ALREADY
    async with translated(doing):
        try:
            await request
        except NetlinkError as error:
            if error.code not in (passed | WITHOUT_IPV6 if version == 6 else passed):
                raise
            return False
    return True


def _strict(conf: Path) -> str | None:
    """Return an interface whose filter does not look at marks."""
    try:
        if _number(conf / "all" / "src_valid_mark"):
            return None
        every = _number(conf / "all" / "rp_filter")
        names = sorted(path.name for path in conf.iterdir())
    except OSError:
        return None
    return next(_unmarked(conf, names, every), None)


def _unmarked(conf: Path, names: Iterable[str], every: int) -> Iterator[str]:
    for name in names:
        if name in {"all", "default", "lo"}:
            continue
        try:
            if max(every, _number(conf / name / "rp_filter")) and not _number(conf / name / "src_valid_mark"):
                yield name
        except OSError:
            continue  # it has just been removed


def _number(path: Path) -> int:
    return int(path.read_text().strip() or 0)
