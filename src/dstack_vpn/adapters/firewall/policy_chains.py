"""The rules of a policy as chains, maps and sets (decision 0037).

The maps ``members4`` and ``members6`` lead from a member's address to its group, ``group_…``, and
this to the rights of the group, ``rights_…``. Their ports lead to ``allow_…``, one for each grant,
with the counter ``grant_…``, by the maps ``ports_…``. Replies are judged in ``replies_…``. Packets
that no rule allows are recorded in the sets ``denied…`` and dropped.

A plain client enforces no policy (decision 0038). Its gateway judges the packets to it by its view:
the maps ``clients4`` and ``clients6`` lead from a client's address to ``view_…``, and this by maps
``members4_…`` and ``members6_…`` to groups. The receiver judges a packet from a client to another
member. The sets ``forwarded4`` and ``forwarded6`` have all clients.

Packets to networks behind this node are judged by zones (decision 0040), which are as views. The
maps ``zones4_…`` and ``zones6_…`` are named by their content, like all that leads to a zone.

Maps and sets of a single field have a name and are declared by ``typeof``. nft 1.0.6 (Debian 12)
crashes at any listing if a newer libnftables, such as a container's, has made an anonymous verdict
map, or has declared one by ``type``.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import product
from typing import Final

from dstack_vpn.adapters.firewall import network_chains
from dstack_vpn.adapters.firewall.table import (
    CLIENTS,
    FAMILIES,
    MEMBERS,
    Chain,
    Lead,
    by_version,
    check_addresses,
    digest,
)
from dstack_vpn.core.policy.rules import Addresses, GrantId, GroupName, GroupRights, PolicyRules, PortRight
from dstack_vpn.core.policy.selectors import Protocol
from dstack_vpn.errors import FirewallError
from dstack_vpn.ports import FirewallRules

_ICMP: Final = "meta l4proto { 1, 58 }"
"""ICMP and ICMPv6. libnftables reads the numbers of names from a file that the images lack."""
_WITH_PORTS: Final = "{ 6, 17 }"
"""TCP and UDP."""
_NAME: Final = re.compile(r"[a-z0-9]+", re.ASCII)
_LIMITS: Final = "size 1024; flags dynamic,timeout; timeout 60s;"
DENIED_SETS: Final = tuple(f"denied{version}{other}" for version in (4, 6) for other in ("", "_other"))
"""The sets that record denied packets: with ports, and of other protocols."""


def _groups(policy: PolicyRules) -> dict[GroupName, GroupRights]:
    """Return the groups of all views and zones. Their names differ."""
    found = dict(policy.groups)
    for view in policy.views.values():
        found |= view.groups
    for zone in policy.networks.values():
        # Replies from the network come under the right of their connection.
        found |= {name: replace(each, outbound=each.inbound) for name, each in zone.groups.items()}
    return found


def _grants(policy: PolicyRules) -> list[GrantId]:
    rights = _groups(policy).values()
    return sorted({right.grant for group in rights for right in (*group.inbound, *group.outbound)})


def check_names(policy: PolicyRules) -> None:
    """Raise `FirewallError` if a name in the rules is invalid."""
    views = policy, *policy.views.values(), *policy.networks.values()
    members = (name for view in views for name in view.members)
    grants = (grant.policy for grant in _grants(policy))
    for name in {*_groups(policy), *members, *policy.views, *policy.networks, *grants}:
        if not _NAME.fullmatch(name):
            raise FirewallError(f"the rules of the policy have an invalid name: {name!r}")
    check_addresses(policy.addresses)


def parts(policy: PolicyRules) -> Iterator[tuple[str, str]]:
    """Yield the counters, the maps and sets of addresses, and the sets of denied packets."""
    for grant in _grants(policy):
        yield f"counter grant_{grant}", ""
    yield "counter denied", ""
    for version, family, header in FAMILIES:
        kinds = f"type {family}_addr . {family}_addr . inet_proto"
        for suffix in ("", *(f"_{view}" for view in sorted({*policy.views, *policy.networks}))):
            yield f"map members{version}{suffix}", f"typeof {header} saddr : verdict;"
        if policy.views:
            yield f"map clients{version}", f"typeof {header} daddr : verdict;"
        yield f"set denied{version}", f"{kinds} . inet_service; {_LIMITS}"
        yield f"set denied{version}_other", f"{kinds}; {_LIMITS}"


def leads(policy: PolicyRules) -> Iterator[tuple[Lead, Addresses]]:
    """Yield the elements of the maps of addresses."""
    for group, members in policy.members.items():
        yield Lead(MEMBERS, f"group_{group}"), members
    for name, view in policy.views.items():
        yield Lead(CLIENTS, f"view_{name}"), by_version(view.addresses)
    for name, view in (*policy.views.items(), *policy.networks.items()):
        for group, members in view.members.items():
            yield Lead(f"{MEMBERS}_{name}", f"group_{group}"), members


def chains(rules: FirewallRules, policy: PolicyRules) -> tuple[dict[str, str], dict[str, Chain]]:
    """Return the maps of ports and the chains."""
    maps: dict[str, str] = {}
    made = {
        f"allow_{grant}": Chain("", (f'counter name "grant_{grant}" accept',)) for grant in _grants(policy)
    }
    for name, rights in sorted(_groups(policy).items()):
        replies = _add(made, "replies", _right_rules(rights.outbound, "sport", maps))
        first = f"ct direction reply goto {replies}"
        own = _add(made, "rights", [first, *_right_rules(rights.inbound, "dport", maps)])
        made[f"group_{name}"] = Chain("", (f"goto {own}",))
    for name in sorted(policy.views):
        to_groups = (f"{header} saddr vmap @members{version}_{name}" for version, _, header in FAMILIES)
        made[f"view_{name}"] = Chain("", (*to_groups, "goto denied"))
    for name in sorted(policy.networks):
        made[f"view_{name}"] = Chain("", tuple(_zone_rules(name)))
    maps |= _zone_maps(policy)
    made["denied"] = Chain("", tuple(_denied_rules()))
    made["prerouting_policy"] = Chain.hooked(
        "filter hook prerouting priority mangle",
        [f'iifname != "{rules.interface}" accept'],
        (_own_address_rule(address) for address in sorted(policy.addresses)),
        (_network_reply_rule(rules, address) for address in sorted(policy.addresses)),
        _forwarding_rules(rules, policy) if policy.views else (),
        # A network opens no connections.
        ["ct direction reply goto denied"] if policy.networks else [],
        # With leak protection, `prerouting_raw` drops these.
        ["fib daddr type != unicast goto denied"] if policy.networks and not rules.protect else [],
        to_zones(rules, policy, "daddr"),
        ["goto denied"],
    )
    return maps, made


def _own_address_rule(address: str) -> str:
    if ":" in address:
        return f"ip6 daddr {address} ip6 saddr vmap @members6"
    return f"ip daddr {address} ip saddr vmap @members4"


def _network_reply_rule(rules: FirewallRules, address: str) -> str:
    """Return the rule for replies from a network behind another node, which enforces the policy."""
    header, version = _header(address), 6 if ":" in address else 4
    source = network_chains.outside(rules, version, "saddr")
    return f"ct direction reply {header} daddr {address} {source}accept"


def _forwarding_rules(rules: FirewallRules, policy: PolicyRules) -> Iterator[str]:
    """Yield the rules for packets to clients, and from clients to other members."""
    for address in sorted(policy.addresses):
        yield f"{_header(address)} daddr {address} goto denied"
    for version, _, header in FAMILIES:
        yield f"{header} daddr vmap @clients{version}"
    for prefix in sorted(rules.prefixes):
        header, version = _header(prefix), 6 if ":" in prefix else 4
        yield f"{header} saddr @forwarded{version} {header} daddr {prefix} accept"


def _zone_rules(name: str) -> Iterator[str]:
    """Yield the rules of a zone: for packets to it, and for replies from it."""
    for version, _, header in FAMILIES:
        yield f"ct direction reply {header} daddr vmap @members{version}_{name}"
    yield "ct direction reply goto denied"
    for version, _, header in FAMILIES:
        yield f"{header} saddr vmap @members{version}_{name}"
    yield "goto denied"


def _zone_maps(policy: PolicyRules) -> dict[str, str]:
    """Return the maps from networks to zones."""
    found = {}
    for version, _, header in FAMILIES:
        listed = sorted(
            f"{network_chains.element(network)} : goto view_{name}"
            for name, zone in policy.networks.items()
            for network in network_chains.networks(zone.addresses, version)
        )
        if listed:
            body = f"typeof {header} daddr : verdict; flags interval; elements = {{ {', '.join(listed)} }}"
            found[f"map zones{version}_{digest([body])}"] = body
    return found


def to_zones(rules: FirewallRules, policy: PolicyRules, field: str) -> Iterator[str]:
    """Yield the rules that lead packets by an address of a network to its zone.

    The internet comes last.
    """
    for part in _zone_maps(policy):
        name = part.removeprefix("map ")
        yield f"{'ip6' if name.startswith('zones6') else 'ip'} {field} vmap @{name}"
    for version, _, header in FAMILIES:
        for name, zone in sorted(policy.networks.items()):
            if network_chains.EXITS[version] in zone.addresses:
                outside = network_chains.outside(rules, version, field)
                yield f"{outside}{header} {field} != @reserved{version} goto view_{name}"


def _header(address: str) -> str:
    return "ip6" if ":" in address else "ip"


def _add(chains: dict[str, Chain], kind: str, rules: Iterable[str]) -> str:
    """Add a chain, and return its name.

    It is named by its content: it never changes, and groups with equal rights share it.
    """
    chain = Chain("", tuple(rules))
    name = f"{kind}_{digest(chain.rules)}"
    chains[name] = chain
    return name


def _right_rules(rights: Iterable[PortRight], field: str, maps: dict[str, str]) -> Iterator[str]:
    """Yield the rules for the rights of one direction, and add their maps of ports.

    Rights for every protocol come last. Single ports are in a map of their own: the kernel finds
    them by a hash, and ranges in a tree.
    """
    ordered = sorted(rights, key=lambda right: (right.first, right.last))
    for protocol, flags in product((Protocol.TCP, Protocol.UDP), ("", " flags interval;")):
        match = f"{protocol.value} {field}"
        found = [
            f"{_ports(right)} : goto allow_{right.grant}"
            for right in ordered
            if right.protocol is protocol and (right.first == right.last) is not bool(flags)
        ]
        if len(found) == 1:
            yield f"{match} {found[0].replace(' :', '')}"
        elif found:
            body = f"typeof {match} : verdict;{flags} elements = {{ {', '.join(found)} }}"
            name = f"ports_{digest([body])}"
            maps[f"map {name}"] = body
            yield f"{match} vmap @{name}"
    yield from (f"{_ICMP} goto allow_{right.grant}" for right in ordered if right.protocol is Protocol.ICMP)
    yield from (f"goto allow_{right.grant}" for right in ordered if right.protocol is None)


def _ports(right: PortRight) -> str:
    return str(right.first) if right.first == right.last else f"{right.first}-{right.last}"


def _denied_rules() -> Iterator[str]:
    # ICMP errors about a connection that is tracked.
    yield f"ct state related {_ICMP} accept"
    for version, family, header in FAMILIES:
        source = f"{header} saddr . {header} daddr . meta l4proto"
        match = f"meta nfproto {family} update @denied{version}"
        yield f"meta l4proto {_WITH_PORTS} {match} {{ {source} . th dport counter }}"
        yield f"meta l4proto != {_WITH_PORTS} {match}_other {{ {source} counter }}"
    yield 'counter name "denied" drop'
