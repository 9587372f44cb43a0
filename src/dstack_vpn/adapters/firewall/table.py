"""The table of the packet filter as a model: its parts as text, and the changes between two.

    output, forward    a packet to the VPN leaves by its interface only
    prerouting_raw     a packet from the VPN has a destination in the VPN, not another address of
                       this machine
    prerouting_policy  a packet from the VPN is permitted by the policy: see below
    forward            a packet from the VPN is forwarded only as FORWARD_TO defines, not to members
    input              a packet with a source in the VPN comes from the VPN, and does not address
                       WireGuard itself
    prerouting_nat     translates the destination for FORWARD_TO
    postrouting_nat    translates the source, so that replies return to this machine

`prerouting_raw` comes before connection tracking and before any table translates addresses.
Therefore, a port that another program publishes (such as Docker) is judged by the address that the
member used. `prerouting_policy` comes after connection tracking, and also before translations.

The chains have a priority before those of other tables, and accept by default. Packets that other
tables refuse stay refused.

For the policy (decision 0037), the maps ``members4`` and ``members6`` lead from a member's address
to the chain of its group, ``group_…``. It allows ports by ``allow_…``, one for each grant, with the
counter ``grant_…``. Replies are judged in ``replies_…``. Packets that no rule allows are recorded
in the sets ``denied…`` and dropped.

Rules contain only addresses, numbers, names with letters and digits, and a validated and quoted
interface name.
"""

import ipaddress
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain as joined
from itertools import pairwise
from typing import Final, NamedTuple

from dstack_vpn.core.model import Cidr
from dstack_vpn.core.policy.rules import GrantId, GroupName, GroupRights, PolicyRules, PortRight
from dstack_vpn.core.policy.selectors import Protocol
from dstack_vpn.errors import FirewallError
from dstack_vpn.ports import FirewallRules, PortForward

_ICMP: Final = "meta l4proto { icmp, ipv6-icmp }"
_WITH_PORTS: Final = "{ tcp, udp }"
_ADDRESS: Final = re.compile(r"[0-9a-f.:]+", re.ASCII)
_NAME: Final = re.compile(r"[a-z0-9]+", re.ASCII)
_LIMITS: Final = "size 1024; flags dynamic,timeout; timeout 60s;"
_FAMILIES: Final = ((4, "ipv4", "ip"), (6, "ipv6", "ip6"))
DENIED_SETS: Final = tuple(f"denied{version}{other}" for version in (4, 6) for other in ("", "_other"))
"""The sets that record denied packets: with ports, and of other protocols."""


class Chain(NamedTuple):
    """A chain. ``hook`` is empty for a chain that only other chains lead to."""

    hook: str
    rules: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """A table."""

    name: str
    chains: Mapping[str, Chain]
    parts: Mapping[str, str] = field(default_factory=dict)
    """The definition of each counter, map and set, by its kind and name."""
    members: Mapping[str, Mapping[str, GroupName]] = field(default_factory=dict)
    """The group of each address, by the map's name."""

    def text(self, *, new: bool = False) -> str:
        """Return the commands that replace an existing table. With ``new``, one is an error."""
        at = f"inet {self.name}"
        begin = [f"create table {at}"] if new else [f"add table {at}", f"delete table {at}"]
        lines = [*begin, f"table {at} {{"]
        for part, definition in self.parts.items():
            body = definition
            if members := self.members.get(part.split()[-1]):
                body += f" elements = {{ {_elements(members.items())} }}"
            lines.append(f"  {part} {{ {body} }}")
        for name, each in self.chains.items():
            lines += [f"  chain {name} {{ {each.hook}".rstrip()]
            lines += [*(f"    {rule}" for rule in each.rules), "  }"]
        return "\n".join([*lines, "}", ""])

    def has_structure_of(self, other: "Table") -> bool:
        """Return True if the tables differ at most in the elements of maps."""
        return self.chains == other.chains and self.parts == other.parts

    def expected(self, name: str) -> frozenset[str]:
        """Return the elements of a map as `listing.elements` does."""
        return frozenset(map(_element, self.members[name].items()))


def transactions(old: Table, new: Table) -> list[str]:
    """Return the transactions that lead from a table to another one with the same name.

    It is one, except if a member moves to a group whose rights change. A packet that the kernel is
    processing while a transaction ends is judged by the old rules and the new elements, so that the
    old rights of the group would apply to that member. Therefore, such members are in a group of
    their own while the rights change. None if the tables are equal.
    """
    steps = [old, *_between(old, new), new]
    return [commands for before, after in pairwise(steps) if (commands := changes(before, after))]


def _between(old: Table, new: Table) -> list[Table]:
    edited = {
        kind_and_name[1]
        for name, each in new.chains.items()
        if (kind_and_name := name.split("_", 1))[0] in {"group", "replies"}
        and old.chains.get(name, each) != each
    }
    moved = {
        name: {
            member: f"{group}_"
            for member, group in members.items() - old.members[name].items()
            if group in edited
        }
        for name, members in (new.members.items() if edited else ())
    }
    if not any(moved.values()):
        return []
    extra: dict[str, Chain] = {}
    for group in sorted({group[:-1] for members in moved.values() for group in members.values()}):
        extra[f"replies_{group}_"] = new.chains[f"replies_{group}"]
        _, *rest = new.chains[f"group_{group}"].rules
        extra[f"group_{group}_"] = Chain("", (f"ct direction reply goto replies_{group}_", *rest))
    allowing = {name: each for name, each in new.chains.items() if name.startswith("allow_")}
    # The chains come first: a chain without rules would drop a packet in process.
    first = replace(old, chains={**old.chains, **allowing, **extra}, parts={**old.parts, **new.parts})
    return [
        first,
        replace(first, members=_with(old.members, moved)),
        replace(new, chains={**new.chains, **extra}, members=_with(new.members, moved)),
    ]


def _with(
    members: Mapping[str, Mapping[str, GroupName]], others: Mapping[str, Mapping[str, GroupName]]
) -> dict[str, dict[str, GroupName]]:
    return {name: {**each, **others[name]} for name, each in members.items()}


def changes(old: Table, new: Table) -> str:
    """Return the commands that make a table from another one with the same name.

    What another part refers to is made before it, and removed after it.
    """
    at = f"inet {new.name}"
    fresh = new.chains.keys() - old.chains.keys()
    gone = [name for name in old.chains if name not in new.chains]
    edited = [name for name, each in new.chains.items() if name in fresh or each != old.chains[name]]
    if any(old.chains[name].hook != new.chains[name].hook for name in edited if name not in fresh) or any(
        new.parts.get(part, body) != body for part, body in old.parts.items()
    ):
        return new.text()
    lines = [f"add {_at(part, at)} {{ {body} }}" for part, body in new.parts.items() if part not in old.parts]
    for name in (name for name in new.chains if name in fresh):
        hook = new.chains[name].hook
        lines.append(f"add chain {at} {name}{f' {{ {hook} }}' if hook else ''}")
    for name in edited:
        lines += [] if name in fresh else [f"flush chain {at} {name}"]
        lines += [f"add rule {at} {name} {rule}" for rule in new.chains[name].rules]
    # A map that is removed has no references when its chains are flushed.
    lines += [f"flush chain {at} {name}" for name in gone]
    for name in new.members.keys() | old.members.keys():
        lines += _member_changes(f"{at} {name}", old.members.get(name, {}), new.members.get(name, {}))
    lines += [f"delete chain {at} {name}" for name in gone]
    lines += [f"delete {_at(part, at)}" for part in old.parts if part not in new.parts]
    return "".join(f"{line}\n" for line in lines)


def _at(part: str, at: str) -> str:
    kind, _, name = part.partition(" ")
    return f"{kind} {at} {name}"


def _member_changes(at: str, old: Mapping[str, GroupName], new: Mapping[str, GroupName]) -> Iterator[str]:
    away, come = dict(old.items() - new.items()), dict(new.items() - old.items())
    if away:
        yield f"delete element {at} {{ {', '.join(sorted(away))} }}"
    if come:
        yield f"add element {at} {{ {_elements(sorted(come.items()))} }}"


def _element(member: tuple[str, GroupName]) -> str:
    return f"{member[0]} : jump group_{member[1]}"


def _elements(members: Iterable[tuple[str, GroupName]]) -> str:
    return ", ".join(map(_element, members))


# -- the chains for all rules ----------------------------------------------------------------------


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
    if rules.policy is None:
        return Table(name, chains)
    _check_names(rules.policy)
    members: dict[str, dict[str, GroupName]] = {"members4": {}, "members6": {}}
    for address, group in rules.policy.members.items():
        members["members6" if ":" in address else "members4"][address] = group
    chains |= _policy_chains(rules.interface, rules.policy)
    return Table(name, chains, dict(_policy_parts(rules.policy)), members)


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


def _grants(policy: PolicyRules) -> list[GrantId]:
    return sorted(
        {right.grant for group in policy.groups.values() for right in (*group.inbound, *group.outbound)}
    )


def _check_names(policy: PolicyRules) -> None:
    for name in {*policy.groups, *policy.members.values(), *(grant.policy for grant in _grants(policy))}:
        if not _NAME.fullmatch(name):
            raise FirewallError(f"the rules of the policy have an invalid name: {name!r}")
    for address in (*policy.addresses, *policy.members):
        if not _ADDRESS.fullmatch(address):
            raise FirewallError(f"the rules of the policy have an invalid address: {address!r}")


def _policy_parts(policy: PolicyRules) -> Iterator[tuple[str, str]]:
    for grant in _grants(policy):
        yield f"counter grant_{grant}", ""
    yield "counter denied", ""
    for version, family, _ in _FAMILIES:
        kinds = f"type {family}_addr . {family}_addr . inet_proto"
        yield f"map members{version}", f"type {family}_addr : verdict;"
        yield f"set denied{version}", f"{kinds} . inet_service; {_LIMITS}"
        yield f"set denied{version}_other", f"{kinds}; {_LIMITS}"


def _policy_chains(interface: str, policy: PolicyRules) -> Iterator[tuple[str, Chain]]:
    for grant in _grants(policy):
        yield f"allow_{grant}", Chain("", (f'counter name "grant_{grant}" accept',))
    for name, group in sorted(policy.groups.items()):
        yield f"replies_{name}", Chain("", tuple(_right_rules(group.outbound, "sport")))
        yield f"group_{name}", Chain("", tuple(_group_rules(name, group)))
    yield "denied", Chain("", tuple(_denied_rules()))
    yield (
        "prerouting_policy",
        _hooked(
            "filter hook prerouting priority mangle",
            # ICMP errors about a connection that is tracked.
            [f'iifname != "{interface}" accept', f"ct state related {_ICMP} accept"],
            (_own_address_rule(address) for address in sorted(policy.addresses)),
            ["goto denied"],
        ),
    )


def _own_address_rule(address: str) -> str:
    if ":" in address:
        return f"ip6 daddr {address} ip6 saddr vmap @members6"
    return f"ip daddr {address} ip saddr vmap @members4"


def _group_rules(name: GroupName, group: GroupRights) -> Iterator[str]:
    yield f"ct direction reply goto replies_{name}"
    yield from _right_rules(group.inbound, "dport")


def _right_rules(rights: Iterable[PortRight], field: str) -> Iterator[str]:
    """Yield the rules for the rights of one direction. Rights for every protocol come last."""
    ordered = sorted(rights, key=lambda right: (right.first, right.last))
    for protocol in (Protocol.TCP, Protocol.UDP):
        if ports := [right for right in ordered if right.protocol is protocol]:
            yield f"{protocol.value} {field} vmap {{ {', '.join(map(_port_verdict, ports))} }}"
    yield from (f"{_ICMP} goto allow_{right.grant}" for right in ordered if right.protocol is Protocol.ICMP)
    yield from (f"goto allow_{right.grant}" for right in ordered if right.protocol is None)


def _port_verdict(right: PortRight) -> str:
    ports = str(right.first) if right.first == right.last else f"{right.first}-{right.last}"
    return f"{ports} : goto allow_{right.grant}"


def _denied_rules() -> Iterator[str]:
    for version, family, header in _FAMILIES:
        source = f"{header} saddr . {header} daddr . meta l4proto"
        match = f"meta nfproto {family} update @denied{version}"
        yield f"meta l4proto {_WITH_PORTS} {match} {{ {source} . th dport counter }}"
        yield f"meta l4proto != {_WITH_PORTS} {match}_other {{ {source} counter }}"
    yield 'counter name "denied" drop'
