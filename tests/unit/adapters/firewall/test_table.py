"""A table as a model: its text, and the commands that change it to another one."""

from dataclasses import replace

from tests.policy_rules import policy_rules

from dstack_vpn.adapters.firewall.rendering import make_table
from dstack_vpn.adapters.firewall.table import Table, changes
from dstack_vpn.core.policy.rules import GrantId, GroupRights, PolicyRules, PortRight
from dstack_vpn.core.policy.selectors import Protocol
from dstack_vpn.ports import FirewallRules

BOTH = frozenset({"10.77.0.0/16", "fd01::/48"})
FIRST, SECOND = GrantId("1a2b3c4d", 1), GrantId("1a2b3c4d", 2)
SSH = PortRight(Protocol.TCP, 22, 22, FIRST)
HTTP = PortRight(Protocol.TCP, 80, 80, SECOND)
HTTPS = PortRight(Protocol.TCP, 443, 443, SECOND)
WEB = PortRight(Protocol.TCP, 8000, 8080, SECOND)
DNS = PortRight(Protocol.UDP, 53, 53, FIRST)
PING = PortRight(Protocol.ICMP, 0, 65535, SECOND)
ALL = PortRight(None, 0, 65535, SECOND)
MEMBERS = {"10.77.0.3": "m0", "fd01::3": "m0", "10.77.0.4": "m1"}
POLICY = policy_rules(
    frozenset({"10.77.0.2", "fd01::2"}),
    MEMBERS,
    {"m0": GroupRights((ALL, WEB, SSH), (DNS, PING)), "m1": GroupRights((PING,))},
)


OWN = frozenset({"10.77.0.2"})
AT = "inet dstack_vpn_wg0"


def with_policy(policy: PolicyRules | None) -> Table:
    """Return the table of a node that does not protect the tunnel."""
    return make_table(FirewallRules("wg0", BOTH, protect=False, policy=policy))


def rights_of(table: Table, group: str) -> str:
    """Return the chain that a group leads to."""
    (rule,) = table.chains[f"group_{group}"].rules
    return rule.removeprefix("goto ")


NO_REPLIES = next(
    name
    for name, chain in with_policy(POLICY).chains.items()
    if name.startswith("replies") and not chain.rules
)


def test_equal_tables_need_no_transaction() -> None:
    assert changes(with_policy(POLICY), with_policy(POLICY)) == ""


def test_changes_make_what_is_referred_to_first_and_remove_it_last() -> None:
    old = with_policy(policy_rules(OWN, {"10.77.0.3": "m0"}, {"m0": GroupRights((SSH, DNS))}))
    new = with_policy(policy_rules(OWN, {"10.77.0.3": "m1"}, {"m1": GroupRights((HTTP, HTTPS))}))
    before, after = rights_of(old, "m0"), rights_of(new, "m1")
    ports = new.chains[after].rules[-1].removeprefix("tcp dport vmap @")
    assert before != after
    assert changes(old, new).splitlines() == [
        f"add chain {AT} allow_1a2b3c4d_2",
        f"add chain {AT} {after}",
        f"add chain {AT} group_m1",
        f"add counter {AT} grant_1a2b3c4d_2 {{  }}",
        (
            f"add map {AT} {ports} {{ typeof tcp dport : verdict; "
            "elements = { 80 : goto allow_1a2b3c4d_2, 443 : goto allow_1a2b3c4d_2 } }"
        ),
        f'add rule {AT} allow_1a2b3c4d_2 counter name "grant_1a2b3c4d_2" accept',
        f"add rule {AT} {after} ct direction reply goto {NO_REPLIES}",
        f"add rule {AT} {after} tcp dport vmap @{ports}",
        f"add rule {AT} group_m1 goto {after}",
        f"delete element {AT} members4 {{ 10.77.0.3 }}",
        f"add element {AT} members4 {{ 10.77.0.3 : jump group_m1 }}",
        f"flush chain {AT} allow_1a2b3c4d_1",
        f"flush chain {AT} {before}",
        f"flush chain {AT} group_m0",
        f"delete counter {AT} grant_1a2b3c4d_1",
        f"delete chain {AT} allow_1a2b3c4d_1",
        f"delete chain {AT} {before}",
        f"delete chain {AT} group_m0",
    ]


def test_a_chain_with_another_hook_is_not_edited_in_place() -> None:
    old = with_policy(POLICY)
    chains = {
        name: each._replace(hook=each.hook.replace("mangle", "raw")) for name, each in old.chains.items()
    }
    new = replace(old, chains=chains)
    assert changes(old, new) == new.text()
