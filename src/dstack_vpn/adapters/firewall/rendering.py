"""The rules of the packet filter as a table.

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
to its group, ``group_…``, and this to the rights of the group, ``rights_…``. Their ports lead to
``allow_…``, one for each grant, with the counter ``grant_…``, by the maps ``ports_…``. Replies are
judged in ``replies_…``. Packets that no rule allows are recorded in the sets ``denied…`` and
dropped.

Maps and sets of a single field have a name and are declared by ``typeof``. nft 1.0.6 (Debian 12)
crashes at any listing if a newer libnftables, such as a container's, has made an anonymous verdict
map, or has declared one by ``type``.

Rules contain only addresses, numbers, names with letters and digits, and a validated and quoted
interface name.
"""

import ipaddress
import re
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from itertools import chain as joined
from typing import Final

from dstack_vpn.adapters.firewall.table import Chain, Table, check_addresses
from dstack_vpn.core.model import Cidr
from dstack_vpn.core.policy.rules import GrantId, PolicyRules, PortRight
from dstack_vpn.core.policy.selectors import Protocol
from dstack_vpn.errors import FirewallError
from dstack_vpn.ports import FirewallRules, PortForward

_ICMP: Final = "meta l4proto { 1, 58 }"
"""ICMP and ICMPv6. libnftables reads the numbers of names from a file that the images lack."""
_WITH_PORTS: Final = "{ 6, 17 }"
"""TCP and UDP."""
_NAME: Final = re.compile(r"[a-z0-9]+", re.ASCII)
_LIMITS: Final = "size 1024; flags dynamic,timeout; timeout 60s;"
_FAMILIES: Final = ((4, "ipv4", "ip"), (6, "ipv6", "ip6"))
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
    if rules.policy is None:
        return Table(name, chains)
    _check_names(rules.policy)
    maps, policy_chains = _policy_chains(rules.interface, rules.policy)
    parts = dict(_policy_parts(rules.policy)) | maps
    return Table(name, chains | policy_chains, parts, rules.policy.members)


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
    for name in {*policy.groups, *policy.members, *(grant.policy for grant in _grants(policy))}:
        if not _NAME.fullmatch(name):
            raise FirewallError(f"the rules of the policy have an invalid name: {name!r}")
    check_addresses(policy.addresses)


def _policy_parts(policy: PolicyRules) -> Iterator[tuple[str, str]]:
    for grant in _grants(policy):
        yield f"counter grant_{grant}", ""
    yield "counter denied", ""
    for version, family, header in _FAMILIES:
        kinds = f"type {family}_addr . {family}_addr . inet_proto"
        yield f"map members{version}", f"typeof {header} saddr : verdict;"
        yield f"set denied{version}", f"{kinds} . inet_service; {_LIMITS}"
        yield f"set denied{version}_other", f"{kinds}; {_LIMITS}"


def _policy_chains(interface: str, policy: PolicyRules) -> tuple[dict[str, str], dict[str, Chain]]:
    """Return the maps of ports and the chains."""
    maps: dict[str, str] = {}
    chains = {
        f"allow_{grant}": Chain("", (f'counter name "grant_{grant}" accept',)) for grant in _grants(policy)
    }
    for name, rights in sorted(policy.groups.items()):
        replies = _add(chains, "replies", _right_rules(rights.outbound, "sport", maps))
        first = f"ct direction reply goto {replies}"
        own = _add(chains, "rights", [first, *_right_rules(rights.inbound, "dport", maps)])
        chains[f"group_{name}"] = Chain("", (f"goto {own}",))
    chains["denied"] = Chain("", tuple(_denied_rules()))
    chains["prerouting_policy"] = _hooked(
        "filter hook prerouting priority mangle",
        # ICMP errors about a connection that is tracked.
        [f'iifname != "{interface}" accept', f"ct state related {_ICMP} accept"],
        (_own_address_rule(address) for address in sorted(policy.addresses)),
        ["goto denied"],
    )
    return maps, chains


def _own_address_rule(address: str) -> str:
    if ":" in address:
        return f"ip6 daddr {address} ip6 saddr vmap @members6"
    return f"ip daddr {address} ip saddr vmap @members4"


def _add(chains: dict[str, Chain], kind: str, rules: Iterable[str]) -> str:
    """Add a chain, and return its name.

    It is named by its content: it never changes, and groups with equal rights share it.
    """
    chain = Chain("", tuple(rules))
    name = f"{kind}_{_digest(chain.rules)}"
    chains[name] = chain
    return name


def _digest(texts: Iterable[str]) -> str:
    return blake2b("\n".join(texts).encode(), digest_size=6).hexdigest()


def _right_rules(rights: Iterable[PortRight], field: str, maps: dict[str, str]) -> Iterator[str]:
    """Yield the rules for the rights of one direction, and add their maps of ports.

    Rights for every protocol come last.
    """
    ordered = sorted(rights, key=lambda right: (right.first, right.last))
    for protocol in (Protocol.TCP, Protocol.UDP):
        match = f"{protocol.value} {field}"
        found = [
            f"{_ports(right)} : goto allow_{right.grant}" for right in ordered if right.protocol is protocol
        ]
        if len(found) == 1:
            yield f"{match} {found[0].replace(' :', '')}"
        elif found:
            body = f"typeof {match} : verdict; flags interval; elements = {{ {', '.join(found)} }}"
            name = f"ports_{_digest([body])}"
            maps[f"map {name}"] = body
            yield f"{match} vmap @{name}"
    yield from (f"{_ICMP} goto allow_{right.grant}" for right in ordered if right.protocol is Protocol.ICMP)
    yield from (f"goto allow_{right.grant}" for right in ordered if right.protocol is None)


def _ports(right: PortRight) -> str:
    return str(right.first) if right.first == right.last else f"{right.first}-{right.last}"


def _denied_rules() -> Iterator[str]:
    for version, family, header in _FAMILIES:
        source = f"{header} saddr . {header} daddr . meta l4proto"
        match = f"meta nfproto {family} update @denied{version}"
        yield f"meta l4proto {_WITH_PORTS} {match} {{ {source} . th dport counter }}"
        yield f"meta l4proto != {_WITH_PORTS} {match}_other {{ {source} counter }}"
    yield 'counter name "denied" drop'
