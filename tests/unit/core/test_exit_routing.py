"""The rules of policy routing that are ours, and those that are in the way."""

import pytest

from dstack_vpn.core.exit_routing import (
    BY_EXIT,
    BY_MAIN,
    MARK,
    TABLE,
    UNREACHABLE,
    RoutingFacts,
    RuleFact,
    exit_obstacles,
    is_ours,
    wanted_rules,
)
from dstack_vpn.core.ownership import PROTOCOL, UNICAST, RouteFact, blackhole_metric

LOCAL, MAIN, DEFAULT = (RuleFact(4, p, t, protocol=2) for p, t in ((0, 255), (32766, 254), (32767, 253)))
WG_QUICK = RuleFact(4, 32765, 51820, mark=0xCA6C, mask=0xFFFF_FFFF, inverted=True)
OF_WG0 = (
    RouteFact("0.0.0.0/0", UNICAST, PROTOCOL, 0, 7, "wg0"),
    RouteFact("0.0.0.0/0", UNREACHABLE, PROTOCOL, blackhole_metric("wg0")),
)


def found(*rules: RuleFact, routes: tuple[RouteFact, ...] = (), index: int = 7) -> list[str]:
    facts = RoutingFacts((LOCAL, MAIN, DEFAULT, *rules), routes)
    return [str(obstacle) for obstacle in exit_obstacles(facts, "wg0", index)]


def test_the_rules_are_our_own_and_send_unmarked_packets_to_our_table() -> None:
    rules = wanted_rules(MARK)
    assert {(rule.version, rule.priority) for rule in rules} == {
        (v, p) for v in (4, 6) for p in (BY_MAIN, BY_EXIT)
    }
    assert all(map(is_ours, rules))
    assert not any(map(is_ours, (LOCAL, MAIN, DEFAULT, WG_QUICK)))


def test_a_usual_host_has_no_obstacle() -> None:
    vrf = RuleFact(4, 1000, 0, action=1, selective=True)
    by_source = RuleFact(4, 32000, 100, selective=True)
    assert found(*wanted_rules(MARK), vrf, by_source, routes=OF_WG0) == []


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (WG_QUICK, "32765: not from all fwmark 0xca6c lookup 51820"),
        (RuleFact(4, 5210, 254, mark=0x80000, mask=0xFF0000), "5210: from all fwmark 0x80000 lookup 254"),
        (RuleFact(6, 5270, 52), "5270: from all lookup 52"),
        (RuleFact(4, 100, 77, mark=1, mask=1, selective=True), "100: fwmark 0x1 lookup 77"),
        (RuleFact(4, 100, 0, action=7), "100: from all action 7"),
    ],
)
def test_a_rule_by_mark_or_for_all_packets_is_in_the_way(rule: RuleFact, text: str) -> None:
    (problem,) = found(rule, rule)
    assert f"'{text}' of another program" in problem


def test_a_table_with_other_routes_is_in_the_way() -> None:
    (problem,) = found(routes=(RouteFact("10.0.0.0/8", protocol=4),))
    assert problem.startswith(f"the routing table {TABLE} has the route 10.0.0.0/8 proto static")
    for other in (
        RouteFact("0.0.0.0/0", UNICAST, PROTOCOL, 0, 8, "wg1"),
        RouteFact("::/0", UNREACHABLE, PROTOCOL, blackhole_metric("wg1")),
    ):
        (problem,) = found(routes=(*OF_WG0, other))
        assert problem.startswith("another dstack-vpn in this network namespace has an EXIT_NODE")
    assert found(routes=OF_WG0[:1], index=0), "a route into an interface that is not ours"


def test_a_reverse_path_filter_without_marks_is_in_the_way() -> None:
    facts = RoutingFacts((LOCAL, MAIN, DEFAULT), strict="eth0")
    (problem,) = exit_obstacles(facts, "wg0", 0)
    assert "src_valid_mark=1" in problem.remedy
    assert "eth0" in problem.what
