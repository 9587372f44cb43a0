"""DNS answers for members, and for names and addresses of others."""

import ipaddress
from collections.abc import Sequence
from dataclasses import replace

import pytest
from tests.scripted import key

from dstack_vpn.core.access.addressing import AddressPlan, unique_local_prefix
from dstack_vpn.core.access.control import AccessControl
from dstack_vpn.core.chain.node import Node
from dstack_vpn.core.chain.registry import Registry
from dstack_vpn.core.model import Malformed, Position
from dstack_vpn.core.names import Answer, DnsRecord, DnsStatus, Names

HEIGHT = 100_000
OWNER = "0x" + "ab" * 20
PLAN = AddressPlan(ipaddress.IPv4Network("10.77.0.0/16"), unique_local_prefix(1, OWNER))
NAMES = Names("vpn.internal", PLAN, "own")
IPV6 = PLAN.ipv6_of(2)
assert IPV6 is not None
REVERSE_6 = IPV6.reverse_pointer


def node(token: int, name: str = "web-1", **more: object) -> Node:
    return replace(Node(token, OWNER, name, key(token), key_since=Position(token, 0)), **more)  # type: ignore[arg-type]  # by field


def ask(name: str, kind: str, *nodes: Node, plan: AddressPlan = PLAN) -> Answer:
    names = Names("vpn.internal", plan, "own")
    return names.answer(name, kind, AccessControl(Registry.of(nodes), plan, key(1), HEIGHT), 1000.0)


def texts(answer: Answer) -> list[str]:
    return [f"{kind} {text}" for kind, text in answer.records]


def test_a_member_has_its_addresses_and_says_who_it_is() -> None:
    name, member = "web-1.vpn.internal", node(2)
    assert texts(ask(name, "A", member)) == ["A 10.77.0.3"]
    assert texts(ask(name, "AAAA", member)) == [f"AAAA {IPV6}"]
    assert texts(ask(name, "TXT", member)) == [f'TXT "token=2" "owner={OWNER}"']
    assert [record.kind for record in ask(name, "ANY", member).records] == ["A", "AAAA", "TXT"]
    assert ask(name, "MX", member) == Answer(DnsStatus.NO_DATA, "vpn.internal")


def test_this_node_has_a_name_as_well() -> None:
    assert texts(ask("own.vpn.internal", "A", node(1, "own"))) == ["A 10.77.0.2"]


def test_an_address_leads_back_to_its_node() -> None:
    pointer = [DnsRecord("PTR", "web-1.vpn.internal.")]
    assert list(ask("3.0.77.10.in-addr.arpa", "PTR", node(2)).records) == pointer
    assert list(ask(REVERSE_6, "PTR", node(2)).records) == pointer
    assert ask(REVERSE_6.upper(), "PTR", node(2)).verdict is DnsStatus.FOUND


@pytest.mark.parametrize(
    "gone",
    [
        node(2, active=False),
        node(2, expires_at=999),
        node(2, public_key=None),
        node(2, public_key=Malformed("no key")),
        node(2, suspended_key=key(2)),
    ],
)
def test_who_is_not_on_the_network_has_no_name(gone: Node) -> None:
    assert ask("web-1.vpn.internal", "A", gone) == Answer(DnsStatus.NO_NAME, "vpn.internal")
    assert ask("3.0.77.10.in-addr.arpa", "PTR", gone) == Answer(DnsStatus.NO_NAME, "77.10.in-addr.arpa")
    assert ask(REVERSE_6, "PTR", gone).verdict is DnsStatus.NO_NAME


def test_beyond_the_ipv4_range_there_is_ipv6_only() -> None:
    member = node(70_000)
    assert ask("web-1.vpn.internal", "A", member) == Answer(DnsStatus.NO_DATA, "vpn.internal")
    assert len(ask("web-1.vpn.internal", "AAAA", member).records) == 1


def test_the_case_of_letters_does_not_matter_and_the_first_key_has_the_name() -> None:
    later, earlier = node(2, "Web-1", key_since=Position(9, 0)), node(3, "wEB-1", key_since=Position(8, 0))
    assert texts(ask("WEB-1.VPN.internal", "A", later, earlier)) == ["A 10.77.0.4"]
    assert texts(ask("web-1.vpn.internal", "A", later, replace(earlier, active=False))) == ["A 10.77.0.3"]


def test_a_node_id_with_dots_leads_through_names_that_are_there_but_empty() -> None:
    member = node(2, "db.eu.west")
    assert ask("db.eu.west.vpn.internal", "A", member).verdict is DnsStatus.FOUND
    assert ask("eu.west.vpn.internal", "A", member).verdict is DnsStatus.NO_DATA
    assert ask("west.vpn.internal", "A", member).verdict is DnsStatus.NO_DATA
    assert ask("st.vpn.internal", "A", member).verdict is DnsStatus.NO_NAME


def test_the_zones_have_a_beginning() -> None:
    for zone in ("vpn.internal", "77.10.in-addr.arpa"):
        assert ask(zone, "SOA") == Answer(DnsStatus.FOUND, zone)
        assert texts(ask(zone, "NS")) == ["NS own.vpn.internal."]
        assert ask(zone, "A") == Answer(DnsStatus.NO_DATA, zone)
    assert ask("0.77.10.in-addr.arpa", "PTR") == Answer(DnsStatus.NO_DATA, "77.10.in-addr.arpa")
    assert NAMES.start_of_authority("vpn.internal", 2**32 + 7).split()[2] == "7"


@pytest.mark.parametrize(
    "name",
    [
        "",
        "example.org",
        "xvpn.internal",
        "internal",
        "1.2.3.4.in-addr.arpa",
        "10.in-addr.arpa",
        "in-addr.arpa",
        "3.0.077.10.in-addr.arpa",
        "x.0.77.10.in-addr.arpa",
        "256.0.77.10.in-addr.arpa",
        "1.3.0.77.10.in-addr.arpa",
        "\u0663.0.77.10.in-addr.arpa",
        "f.f.ip6.arpa",
        REVERSE_6.replace("d.f.ip6", "c.f.ip6"),
        "0" + REVERSE_6,
    ],
)
def test_what_is_not_ours_is_left_to_others(name: str) -> None:
    assert ask(name, "PTR", node(2)) == Answer(DnsStatus.FOREIGN)


def test_where_the_range_ends_within_a_label_each_part_is_a_zone() -> None:
    plan = AddressPlan(ipaddress.IPv4Network("10.76.0.0/15"), PLAN.ipv6)
    assert ask("3.0.76.10.in-addr.arpa", "PTR", node(2), plan=plan).verdict is DnsStatus.FOUND
    assert ask("9.9.77.10.in-addr.arpa", "PTR", plan=plan) == Answer(DnsStatus.NO_NAME, "77.10.in-addr.arpa")
    assert ask("9.9.78.10.in-addr.arpa", "PTR", plan=plan) == Answer(DnsStatus.FOREIGN)


def test_answers_change_with_the_registry_at_once() -> None:
    before, after = Registry.of([node(2)]), Registry.of([node(2, active=False)])
    for registry, verdict in (
        (before, DnsStatus.FOUND),
        (after, DnsStatus.NO_NAME),
        (before, DnsStatus.FOUND),
    ):
        answer = NAMES.answer("web-1.vpn.internal", "A", AccessControl(registry, PLAN, key(1), HEIGHT), 0.0)
        assert answer.verdict is verdict


class ScriptedRoles:
    """The roles of a registry whose tags are ``db``, and ``web`` without members."""

    defined = True

    def __init__(self, *members: int) -> None:
        self._members = {"db": members, "web": ()}

    def members(self, tag: str) -> Sequence[int] | None:
        return self._members.get(tag)


def ask_role(name: str, kind: str, *nodes: Node, members: tuple[int, ...] = (3, 2)) -> Answer:
    access = AccessControl(Registry.of(nodes), PLAN, key(1), HEIGHT)
    return NAMES.answer(f"{name}.vpn.internal", kind, access, 1000.0, ScriptedRoles(*members))


def test_a_tag_has_the_addresses_of_its_members_in_their_order() -> None:
    assert texts(ask_role("db.tag", "A")) == ["A 10.77.0.4", "A 10.77.0.3"]
    assert texts(ask_role("DB.Tag", "AAAA")) == [f"AAAA {PLAN.ipv6_of(3)}", f"AAAA {IPV6}"]
    assert texts(ask_role("nearest.db.tag", "A")) == ["A 10.77.0.4"]
    assert texts(ask_role("db.tag", "A", members=(70_000, 2))) == ["A 10.77.0.3"]


@pytest.mark.parametrize("kind", ["TXT", "SRV", "MX"])
def test_a_tag_has_addresses_only(kind: str) -> None:
    assert ask_role("db.tag", kind) == Answer(DnsStatus.NO_DATA, "vpn.internal")


def test_a_tag_without_members_exists_and_one_without_a_definition_does_not() -> None:
    for name in ("web.tag", "nearest.web.tag", "tag"):
        assert ask_role(name, "A") == Answer(DnsStatus.NO_DATA, "vpn.internal"), name
    for name in ("mail.tag", "nearest.mail.tag", "x.db.tag", "nearest.nearest.db.tag", "nearest.tag"):
        assert ask_role(name, "A") == Answer(DnsStatus.NO_NAME, "vpn.internal"), name


def test_no_node_id_takes_a_tags_name() -> None:
    """A node ``tag`` keeps its own name; ``db.tag`` has one only without tags."""
    tag, taker, other = node(4, "tag"), node(5, "db.tag"), node(6, "mail.tag")
    assert texts(ask_role("tag", "A", tag, taker)) == ["A 10.77.0.5"]
    assert texts(ask_role("db.tag", "A", tag, taker)) == ["A 10.77.0.4", "A 10.77.0.3"]
    assert ask_role("mail.tag", "A", other).verdict is DnsStatus.NO_NAME
    assert ask("6.0.77.10.in-addr.arpa", "PTR", taker).verdict is DnsStatus.FOUND
    assert ask_role("db.eu", "A", node(7, "db.eu")).verdict is DnsStatus.FOUND
    assert texts(ask("db.tag.vpn.internal", "A", taker)) == ["A 10.77.0.6"], "no tag is defined"
    assert ask("tag.vpn.internal", "A").verdict is DnsStatus.NO_NAME
