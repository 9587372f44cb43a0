"""Rules of a policy from the group of each address."""

from collections.abc import Mapping

from dstack_vpn.core.policy.rules import Addresses, GroupName, GroupRights, PolicyRules


def policy_rules(
    addresses: frozenset[str], members: Mapping[str, GroupName], groups: Mapping[GroupName, GroupRights]
) -> PolicyRules:
    """Return the rules. Groups without a member stay."""
    return PolicyRules(addresses, members_of(members, groups), groups)


def members_of(
    members: Mapping[str, GroupName], groups: Mapping[GroupName, GroupRights]
) -> dict[GroupName, Addresses]:
    """Return the members of each group."""
    found = {}
    for group in {**groups, **dict.fromkeys(members.values())}:
        listed = [address for address, name in members.items() if name == group]
        ipv6 = frozenset(address for address in listed if ":" in address)
        found[group] = Addresses(frozenset(listed) - ipv6, ipv6)
    return found


def group_of(rules: PolicyRules) -> dict[str, GroupName]:
    """Return the group of each address."""
    return {address: name for name, each in rules.members.items() for address in (*each.ipv4, *each.ipv6)}
