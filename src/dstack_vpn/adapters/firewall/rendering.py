"""The rules of the packet filter as a table.

    output, forward    a packet to the VPN leaves by its interface only
    prerouting_raw     a packet from the VPN has a destination in the VPN, not another address of
                       this machine
    prerouting_policy  a packet from the VPN is permitted by the policy: see below
    forward            a packet from the VPN is forwarded only as FORWARD_TO defines, and within
                       the VPN only if its source or destination is a plain client of this node
    input              a packet with a source in the VPN comes from the VPN, and does not address
                       WireGuard itself
    prerouting_nat     translates the destination for FORWARD_TO
    postrouting_nat    translates the source, so that replies return to this machine

`prerouting_raw` comes before connection tracking and before any table translates addresses.
Therefore, a port that another program publishes (such as Docker) is judged by the address that the
member used. `prerouting_policy` comes after connection tracking, and also before translations.

The chains have a priority before those of other tables, and accept by default. Packets that other
tables refuse stay refused.

For the policy (decision 0037), each group of members has a set of addresses for each IP version,
``members4_…`` and ``members6_…``. ``from4`` and ``from6`` lead from these to the group's rights,
``rights_…``. This chain allows ports by ``allow_…``, one for each grant, with the counter
``grant_…``. Replies are judged in ``replies_…``. Packets that no rule allows are recorded in the
sets ``denied…`` and dropped.

A plain client enforces no policy. Its gateway judges the packets to it by its view: ``clients4``
leads a packet by its destination to the chain ``from4_…`` of the view. A packet from a client to
another member is judged there. All clients are in ``forwarded4`` and ``forwarded6``.

nft 1.0.6 (Debian 12) crashes at any listing if a newer libnftables, such as a container's, has made
an anonymous verdict map, or a set of addresses that is declared by ``type`` instead of ``typeof``.

Rules contain only addresses, numbers, names with letters and digits, and a validated and quoted
interface name.
"""

import ipaddress
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from hashlib import blake2b
from itertools import chain as joined
from itertools import groupby
from typing import Final

from dstack_vpn.adapters.firewall.table import Chain, Table
from dstack_vpn.core.model import Cidr
from dstack_vpn.core.policy.rules import GrantId, GroupName, GroupRights, PolicyRules, PortRight
from dstack_vpn.core.policy.selectors import Protocol
from dstack_vpn.errors import FirewallError
from dstack_vpn.ports import FirewallRules, PortForward

_ICMP: Final = "meta l4proto { 1, 58 }"
"""ICMP and ICMPv6. libnftables reads the numbers of names from a file that the images lack."""
_WITH_PORTS: Final = "{ 6, 17 }"
"""TCP and UDP."""
_ADDRESSES: Final = re.compile(r"[0-9a-f.:]*", re.ASCII)
_NAME: Final = re.compile(r"[a-z0-9]+", re.ASCII)
_LIMITS: Final = "size 1024; flags dynamic,timeout; timeout 60s;"
_FAMILIES: Final = ((4, "ipv4", "ip"), (6, "ipv6", "ip6"))
_HEADERS: Final = {"4": "ip", "6": "ip6"}
DENIED_SETS: Final = tuple(f"denied{version}{other}" for version in (4, 6) for other in ("", "_other"))
"""The sets that record denied packets: with ports, and of other protocols."""


def table_name(interface: str) -> str:
    """Return the table of an interface.

    Each interface has a different table, so that daemons on one host do not disturb each other.
    """
    return "dstack_vpn_" + re.sub("[^A-Za-z0-9]", lambda character: _escaped(character[0]), interface)


def _escaped(character: str) -> str:
    return "__" if character == "_" else f"_{ord(character):02x}"


def former_name(interface: str) -> str:
    """Return the table's name in releases up to 0.1, which was the same for ``a-b`` and ``a_b``."""
    return "dstack_vpn_" + re.sub("[^A-Za-z0-9]", "_", interface)


def make_table(rules: FirewallRules) -> Table:
    """Return the table for rules. Raises `FirewallError` if a name in them is invalid."""
    name, chains = table_name(rules.interface), dict(_chains(rules))
    _check_addresses(rules.forwarded)
    parts = {f"set {each}": f"typeof {_HEADERS[each[-1]]} saddr;" for each in _forwarded_sets(rules)}
    members: dict[str, set[str]] = {each: set() for each in _forwarded_sets(rules)}
    for address in rules.forwarded if members else ():
        members[f"forwarded{_version(address)}"].add(address)
    if rules.policy is not None:
        _check_names(rules.policy)
        members |= _members(rules.policy)
        parts |= _policy_parts(rules.policy)
        chains |= _policy_chains(rules, rules.policy)
    return Table(name, chains, parts, {each: frozenset(found) for each, found in members.items()})


def _forwarded_sets(rules: FirewallRules) -> list[str]:
    """Return the sets of the addresses that this node forwards for, if a rule needs them."""
    needed = rules.forwarded and (rules.protect or rules.policy is not None)
    return ["forwarded4", "forwarded6"] if needed else []


def _version(address: str) -> int:
    return 6 if ":" in address else 4


def _members(policy: PolicyRules) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {name: set() for name in _member_sets(policy)}
    for view in (policy, *policy.views.values()):
        for address, group in view.members.items():
            found[f"members{_version(address)}_{group}"].add(address)
    for name, view in policy.views.items():
        for address in view.addresses:
            found[f"clients{_version(address)}_{name}"].add(address)
    return found


def _chains(rules: FirewallRules) -> Iterator[tuple[str, Chain]]:
    ours = f'"{rules.interface}"'
    prefixes = sorted(rules.prefixes)
    if rules.protect:
        away = f'oifname != {{ {ours}, "lo" }}'
        yield (
            "output",
            _hooked(
                "filter hook output priority filter - 5",
                (f"{away} {_match(prefix, 'daddr')} counter drop" for prefix in prefixes),
            ),
        )
        yield (
            "input",
            _hooked(
                "filter hook input priority filter - 5",
                (
                    f'iifname != {{ {ours}, "lo" }} {_match(prefix, "saddr")} counter drop'
                    for prefix in prefixes
                ),
                (
                    f"iifname {ours} {protocol} dport {port} counter drop"
                    for protocol, port in sorted(rules.closed)
                ),
            ),
        )
        yield (
            "prerouting_raw",
            _hooked(
                "filter hook prerouting priority raw",
                (f"iifname {ours} {_match(prefix, 'daddr', '!= ')} counter drop" for prefix in prefixes),
            ),
        )
        yield (
            "forward",
            _hooked(
                "filter hook forward priority filter - 5",
                (f"oifname != {ours} {_match(prefix, 'daddr')} counter drop" for prefix in prefixes),
                # Without a port forward, connections need not be tracked.
                [f"iifname {ours} ct status dnat accept"] if rules.port_forwards else [],
                (
                    f"iifname {ours} oifname {ours} {_HEADERS[each[-1]]} {field} @{each} accept"
                    for each in _forwarded_sets(rules)
                    for field in ("saddr", "daddr")
                ),
                [f"iifname {ours} counter drop"],
            ),
        )
    if rules.port_forwards:
        yield (
            "prerouting_nat",
            _hooked(
                "nat hook prerouting priority dstnat",
                (
                    f"iifname {ours} {rule}"
                    for port_forward in sorted(rules.port_forwards)
                    for prefix in prefixes
                    if (rule := _dnat_rule(port_forward, prefix)) is not None
                ),
            ),
        )
        yield (
            "postrouting_nat",
            _hooked(
                "nat hook postrouting priority srcnat",
                (
                    f"oifname != {ours} {_match(prefix, 'saddr')} ct status dnat counter masquerade"
                    for prefix in prefixes
                ),
            ),
        )


def _hooked(hook: str, *rules: Iterable[str]) -> Chain:
    return Chain(f"type {hook}; policy accept;", tuple(joined(*rules)))


def _match(prefix: Cidr, field: str, unlike: str = "") -> str:
    return f"{'ip6' if ipaddress.ip_network(prefix).version == 6 else 'ip'} {field} {unlike}{prefix}"


def _dnat_rule(port_forward: PortForward, prefix: Cidr) -> str | None:
    """Return the rule for packets to an address in ``prefix``. None if the IP versions differ."""
    address = ipaddress.ip_address(port_forward.address)
    if address.version != ipaddress.ip_network(prefix).version:
        return None
    family, to = ("ip6", f"[{address}]") if address.version == 6 else ("ip", str(address))
    at = f"{_match(prefix, 'daddr')} {port_forward.protocol} dport {port_forward.port}"
    return f"{at} counter dnat {family} to {to}:{port_forward.to_port}"


# -- the policy ------------------------------------------------------------------------------------


def _groups(policy: PolicyRules) -> dict[GroupName, GroupRights]:
    """Return the groups of all views."""
    found = dict(policy.groups)
    for view in policy.views.values():
        found |= view.groups
    return found


def _grants(policy: PolicyRules) -> list[GrantId]:
    rights = _groups(policy).values()
    return sorted({right.grant for group in rights for right in (*group.inbound, *group.outbound)})


def _check_names(policy: PolicyRules) -> None:
    names = {*_groups(policy), *policy.views, *(grant.policy for grant in _grants(policy))}
    for view in (policy, *policy.views.values()):
        names.update(view.members.values())
        _check_addresses((*view.addresses, *view.members))
    for name in names:
        if not _NAME.fullmatch(name):
            raise FirewallError(f"the rules of the policy have an invalid name: {name!r}")


def _check_addresses(addresses: Collection[str]) -> None:
    # One match for 20,000 addresses: it takes 1 ms, and one for each of them 3 ms.
    if not _ADDRESSES.fullmatch("".join(addresses)):
        address = next(each for each in addresses if not _ADDRESSES.fullmatch(each))
        raise FirewallError(f"the rules have an invalid address: {address!r}")


def _member_sets(policy: PolicyRules) -> Iterator[str]:
    groups = _groups(policy)
    for version, _, _ in _FAMILIES:
        yield from (f"members{version}_{group}" for group in groups)
        yield from (f"clients{version}_{view}" for view in policy.views)


def _policy_parts(policy: PolicyRules) -> Iterator[tuple[str, str]]:
    for grant in _grants(policy):
        yield f"counter grant_{grant}", ""
    yield "counter denied", ""
    for version, family, header in _FAMILIES:
        kinds = f"type {family}_addr . {family}_addr . inet_proto"
        for group in sorted(_groups(policy)):
            yield f"set members{version}_{group}", f"typeof {header} saddr;"
        for view in sorted(policy.views):
            yield f"set clients{version}_{view}", f"typeof {header} saddr;"
        yield f"set denied{version}", f"{kinds} . inet_service; {_LIMITS}"
        yield f"set denied{version}_other", f"{kinds}; {_LIMITS}"


def _policy_chains(rules: FirewallRules, policy: PolicyRules) -> Iterator[tuple[str, Chain]]:
    for grant in _grants(policy):
        yield f"allow_{grant}", Chain("", (f'counter name "grant_{grant}" accept',))
    chains = {name: _rights_chains(rights) for name, rights in sorted(_groups(policy).items())}
    for replies, rights in chains.values():
        yield from (replies, rights)
    for suffix, view in (("", policy), *((f"_{name}", view) for name, view in sorted(policy.views.items()))):
        for version, _, header in _FAMILIES:
            leads = (
                f"{header} saddr @members{version}_{group} goto {chains[group][1][0]}"
                for group in sorted(view.groups)
            )
            yield f"from{version}{suffix}", Chain("", tuple(leads))
    for version, _, header in _FAMILIES if policy.views else ():
        leads = (
            f"{header} daddr @clients{version}_{name} jump from{version}_{name}"
            for name in sorted(policy.views)
        )
        yield f"clients{version}", Chain("", tuple(leads))
    yield "denied", Chain("", tuple(_denied_rules()))
    yield (
        "prerouting_policy",
        _hooked(
            "filter hook prerouting priority mangle",
            # ICMP errors about a connection that is tracked.
            [f'iifname != "{rules.interface}" accept', f"ct state related {_ICMP} accept"],
            (_own_address_rule(address) for address in sorted(policy.addresses)),
            _forwarding_rules(rules, policy) if _forwarded_sets(rules) else (),
            ["goto denied"],
        ),
    )


def _own_address_rule(address: str) -> str:
    version = _version(address)
    return f"{_HEADERS[str(version)]} daddr {address} jump from{version}"


def _forwarding_rules(rules: FirewallRules, policy: PolicyRules) -> Iterator[str]:
    """Yield the rules for packets that are forwarded to clients, and from them to other members."""
    if policy.views:
        yield from ("jump clients4", "jump clients6")
    # A packet that was not accepted so far is denied, also if it comes from a client.
    for address in sorted(policy.addresses):
        yield f"{_HEADERS[str(_version(address))]} daddr {address} goto denied"
    for name in _forwarded_sets(rules):
        yield f"{_HEADERS[name[-1]]} daddr @{name} goto denied"
    for prefix in sorted(rules.prefixes):
        version = ipaddress.ip_network(prefix).version
        source = f"{_HEADERS[str(version)]} saddr @forwarded{version}"
        yield f"{source} {_match(prefix, 'daddr')} accept"


def _rights_chains(rights: GroupRights) -> tuple[tuple[str, Chain], tuple[str, Chain]]:
    """Return the chains of a group's replies and of its rights, with their names.

    They are named by their content: a chain never changes, and groups with equal rights share one.
    """
    replies, replies_chain = _by_content("replies", _right_rules(rights.outbound, "sport"))
    rules = [f"ct direction reply goto {replies}", *_right_rules(rights.inbound, "dport")]
    return (replies, replies_chain), _by_content("rights", rules)


def _by_content(kind: str, rules: Iterable[str]) -> tuple[str, Chain]:
    chain = Chain("", tuple(rules))
    text = "\n".join(chain.rules).encode()
    return f"{kind}_{blake2b(text, digest_size=6).hexdigest()}", chain


def _right_rules(rights: Iterable[PortRight], field: str) -> Iterator[str]:
    """Yield the rules for the rights of one direction. Rights for every protocol come last."""
    ordered = sorted(rights, key=lambda right: (right.grant, right.first))
    for protocol in (Protocol.TCP, Protocol.UDP):
        found = (right for right in ordered if right.protocol is protocol)
        for grant, ports in groupby(found, key=lambda right: right.grant):
            yield f"{protocol.value} {field} {_ports(list(ports))} goto allow_{grant}"
    yield from (f"{_ICMP} goto allow_{right.grant}" for right in ordered if right.protocol is Protocol.ICMP)
    yield from (f"goto allow_{right.grant}" for right in ordered if right.protocol is None)


def _ports(rights: Sequence[PortRight]) -> str:
    found = [
        str(right.first) if right.first == right.last else f"{right.first}-{right.last}" for right in rights
    ]
    return found[0] if len(found) == 1 else f"{{ {', '.join(found)} }}"


def _denied_rules() -> Iterator[str]:
    for version, family, header in _FAMILIES:
        source = f"{header} saddr . {header} daddr . meta l4proto"
        match = f"meta nfproto {family} update @denied{version}"
        yield f"meta l4proto {_WITH_PORTS} {match} {{ {source} . th dport counter }}"
        yield f"meta l4proto != {_WITH_PORTS} {match}_other {{ {source} counter }}"
    yield 'counter name "denied" drop'
