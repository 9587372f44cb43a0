"""The rules of the packet filter as a table.

    output, forward    a packet to the VPN leaves by its interface only
    prerouting_raw     a packet from the VPN has a destination in the VPN, not another address of
                       this machine
    prerouting_policy  a packet from the VPN is permitted by the policy
    forward            a packet from the VPN is forwarded only as FORWARD_TO defines, and within
                       the VPN only if its source or destination is a plain client of this node
    input              a packet with a source in the VPN comes from the VPN, and does not address
                       WireGuard itself
    prerouting_nat     translates the destination for FORWARD_TO
    postrouting_nat    translates the source, so that replies return to this machine

`network_chains` has the rules for the networks behind this node.

`prerouting_raw` comes before connection tracking and before any table translates addresses.
Therefore, a port that another program publishes (such as Docker) is judged by the address that the
member used. `prerouting_policy` comes after connection tracking, and also before translations.

The chains have a priority before those of other tables, and accept by default. Packets that other
tables refuse stay refused.

Rules compare addresses and ports before the name of the interface: that takes the kernel longer,
and most packets do not need it.

`policy_chains` has the rules of the policy.

Rules contain only addresses, numbers, names with letters and digits, and a validated and quoted
interface name.
"""

import ipaddress
import re
from collections.abc import Iterator

from dstack_vpn.adapters.firewall import network_chains, policy_chains
from dstack_vpn.adapters.firewall.table import FAMILIES, FORWARDED, Chain, Lead, Table, by_version
from dstack_vpn.core.model import Cidr
from dstack_vpn.core.policy.rules import Addresses
from dstack_vpn.ports import FirewallRules, PortForward


def table_name(interface: str) -> str:
    """Return the table of an interface.

    Each interface has a different table, so that daemons on one host do not disturb each other.
    """
    return "dstack_vpn_" + escaped(interface)


def escaped(interface: str) -> str:
    """Return an interface's name as a part of a table's."""
    return re.sub(
        "[^A-Za-z0-9]", lambda found: "__" if found[0] == "_" else f"_{ord(found[0]):02x}", interface
    )


def former_name(interface: str) -> str:
    """Return the table's name in releases up to 0.1, which was the same for ``a-b`` and ``a_b``."""
    return "dstack_vpn_" + re.sub("[^A-Za-z0-9]", "_", interface)


def make_table(rules: FirewallRules) -> Table:
    """Return the table for rules. Raises `FirewallError` if a name in them is invalid."""
    name, chains, clients = table_name(rules.interface), dict(_chains(rules)), _clients(rules)
    parts, leads = dict[str, str](), dict[Lead, Addresses]()
    if clients:
        leads[FORWARDED] = by_version(clients)
        parts |= {f"set forwarded{version}": f"typeof {header} saddr;" for version, _, header in FAMILIES}
    parts |= dict(network_chains.parts(rules))
    if rules.policy is not None:
        policy_chains.check_names(rules.policy)
        leads |= dict(policy_chains.leads(rules.policy))
        maps, of_policy = policy_chains.chains(rules, rules.policy)
        parts |= dict(policy_chains.parts(rules.policy)) | maps
        chains |= of_policy
    if rules.protect or rules.policy is not None:
        replies = () if rules.policy is None else policy_chains.to_zones(rules, rules.policy, "saddr")
        chains |= dict(network_chains.chains(rules, replies))
    return Table(name, chains, parts, leads)


def _clients(rules: FirewallRules) -> frozenset[str]:
    """Return the addresses of the plain clients. Under a policy, only those that have a view."""
    if rules.policy is not None:
        return frozenset[str]().union(*(view.addresses for view in rules.policy.views.values()))
    return rules.forwarded if rules.protect else frozenset()


def _chains(rules: FirewallRules) -> Iterator[tuple[str, Chain]]:
    ours = f'"{rules.interface}"'
    prefixes = sorted(rules.prefixes)
    if rules.protect:
        away = f'oifname != {ours} oifname != "lo"'
        yield (
            "output",
            Chain.hooked(
                "filter hook output priority filter - 5",
                (f"{match(prefix, 'daddr')} {away} counter drop" for prefix in prefixes),
            ),
        )
        yield (
            "input",
            Chain.hooked(
                "filter hook input priority filter - 5",
                (
                    f'{match(prefix, "saddr")} iifname != {ours} iifname != "lo" counter drop'
                    for prefix in prefixes
                ),
                (
                    f"{protocol} dport {port} iifname {ours} counter drop"
                    for protocol, port in sorted(rules.closed)
                ),
            ),
        )
        yield (
            "prerouting_raw",
            Chain.hooked(
                "filter hook prerouting priority raw",
                (
                    f"{found} counter drop"
                    for prefix in prefixes
                    for found in network_chains.refused(rules, prefix)
                ),
            ),
        )
        yield (
            "forward",
            Chain.hooked(
                "filter hook forward priority filter - 5",
                (f"{match(prefix, 'daddr')} oifname != {ours} counter drop" for prefix in prefixes),
                [f"iifname != {ours} accept"],
                # Without a port forward, connections need not be tracked.
                ["ct status dnat accept"] if rules.port_forwards else [],
                (
                    f"{header} {field} @forwarded{version} oifname {ours} accept"
                    for version, _, header in (FAMILIES if _clients(rules) else ())
                    for field in ("saddr", "daddr")
                ),
                network_chains.accepted(rules),
                ["ct direction reply ct status snat accept"] if rules.exits else [],
                ["counter drop"],
            ),
        )
    if rules.port_forwards:
        yield (
            "prerouting_nat",
            Chain.hooked(
                "nat hook prerouting priority dstnat",
                (
                    f"iifname {ours} {rule}"
                    for port_forward in sorted(rules.port_forwards)
                    for prefix in prefixes
                    if (rule := _dnat_rule(port_forward, prefix)) is not None
                ),
            ),
        )
    translations = list(network_chains.translations(rules))
    if rules.port_forwards or translations:
        yield (
            "postrouting_nat",
            Chain.hooked(
                "nat hook postrouting priority srcnat",
                (
                    f"oifname != {ours} {match(prefix, 'saddr')} ct status dnat counter masquerade"
                    for prefix in (prefixes if rules.port_forwards else ())
                ),
                translations,
            ),
        )


def match(prefix: Cidr, field: str, unlike: str = "") -> str:
    """Return the part of a rule that compares an address of the packet with a prefix."""
    return f"{'ip6' if ipaddress.ip_network(prefix).version == 6 else 'ip'} {field} {unlike}{prefix}"


def _dnat_rule(port_forward: PortForward, prefix: Cidr) -> str | None:
    """Return the rule for packets to an address in ``prefix``. None if the IP versions differ."""
    address = ipaddress.ip_address(port_forward.address)
    if address.version != ipaddress.ip_network(prefix).version:
        return None
    family, to = ("ip6", f"[{address}]") if address.version == 6 else ("ip", str(address))
    at = f"{match(prefix, 'daddr')} {port_forward.protocol} dport {port_forward.port}"
    return f"{at} counter dnat {family} to {to}:{port_forward.to_port}"
