"""The packet filter on a real kernel: what others do to our table is seen, and theirs is left alone."""

from collections.abc import Iterator

import pytest
from tests import netns_support
from tests.netns_support import Namespace

from dstack_vpn.adapters.firewall.nft import NftFirewall
from dstack_vpn.errors import FirewallError
from dstack_vpn.ports import FirewallRules, Handing

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(not netns_support.is_usable(), reason="needs root and namespaces"),
]
BOTH = frozenset({"10.77.0.0/16", "fd01::/48"})
RULES = FirewallRules("h1-w", BOTH, True)
TABLE = "dstack_vpn_h1_2dw"
DOCKER = """\
table ip filter {
  chain FORWARD { type filter hook forward priority filter; policy drop;
  }
}
"""


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    with Namespace("f") as namespace, namespace.entered():
        yield namespace


@pytest.mark.parametrize(
    "edit",
    [
        ("flush", "table", "inet", TABLE),
        ("flush", "chain", "inet", TABLE, "arriving"),
        ("delete", "table", "inet", TABLE),
        ("insert", "rule", "inet", TABLE, "leaving", "accept"),
        ("add", "chain", "inet", TABLE, "more"),
        ("flush", "ruleset"),
    ],
    ids=" ".join,
)
async def test_any_edit_of_our_table_is_seen(namespace: Namespace, edit: tuple[str, ...]) -> None:
    firewall = NftFirewall()
    await firewall.apply(RULES)
    made = namespace.run("nft", "list", "ruleset")
    assert await firewall.is_applied("h1-w")
    namespace.run("nft", *edit)
    assert not await firewall.is_applied("h1-w")
    await firewall.apply(RULES)
    assert await firewall.is_applied("h1-w")
    assert namespace.run("nft", "list", "ruleset") == made
    await firewall.remove("h1-w")
    assert namespace.run("nft", "list", "ruleset") == ""


async def test_names_that_differ_in_a_sign_have_tables_of_their_own(namespace: Namespace) -> None:
    firewalls = {name: NftFirewall() for name in ("h1-w", "h1_w")}
    for name, firewall in firewalls.items():
        await firewall.apply(FirewallRules(name, BOTH, True))
    for name, firewall in firewalls.items():
        assert await firewall.is_applied(name)
    await firewalls["h1-w"].remove("h1-w")
    assert await firewalls["h1_w"].is_applied("h1_w")


async def test_a_table_of_others_with_our_name_is_left_alone(namespace: Namespace) -> None:
    namespace.run("nft", "-f", "-", text=f"table inet {TABLE} {{\n chain mine {{\n }}\n}}\n")
    before = namespace.run("nft", "list", "ruleset")
    firewall = NftFirewall()
    with pytest.raises(FirewallError, match="was not made by dstack-vpn"):
        await firewall.apply(RULES)
    assert not await firewall.is_applied("h1-w")
    await firewall.remove("h1-w")
    assert namespace.run("nft", "list", "ruleset") == before


async def test_the_table_of_an_earlier_release_is_taken_over_if_it_is_ours(namespace: Namespace) -> None:
    await NftFirewall().apply(RULES)
    listed = namespace.run("nft", "list", "ruleset")
    await NftFirewall().apply(RULES)
    assert namespace.run("nft", "list", "ruleset") == listed, "of a run that was killed"
    for whose, stays in (("h1-w", False), ("h1_w", True)):
        namespace.run("nft", "flush", "ruleset")
        text = listed.replace(TABLE, "dstack_vpn_h1_w").replace('"h1-w"', f'"{whose}"')
        namespace.run("nft", "-f", "-", text=text)
        await NftFirewall().apply(RULES)
        assert ("table inet dstack_vpn_h1_w {" in namespace.run("nft", "list", "ruleset")) is stays


async def test_a_policy_that_drops_what_is_forwarded_is_named(namespace: Namespace) -> None:
    firewall = NftFirewall()
    namespace.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
    await firewall.apply(FirewallRules("wg0", BOTH, True, frozenset({Handing("tcp", 80, "192.0.2.7", 80)})))
    assert await firewall.conflict("wg0", {4, 6}) is None
    namespace.run("nft", "-f", "-", text=DOCKER)
    found = await firewall.conflict("wg0", {4})
    assert found is not None
    assert found.startswith("FORWARD_TO: the table 'ip filter' drops what is forwarded")
    assert "iptables -I FORWARD -i wg0" in found
    assert await firewall.conflict("wg0", {6}) is None
    namespace.run("nft", "add", "rule", "ip", "filter", "FORWARD", "iifname", "wg0", "accept")
    assert await firewall.conflict("wg0", {4}) is None
