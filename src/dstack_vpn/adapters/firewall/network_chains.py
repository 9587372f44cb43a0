"""The rules for the networks behind this node (decision 0040).

    prerouting_raw        a packet from the VPN may have a destination in the networks, but not an
                          address of this machine in them
    forward               members' packets to the networks are forwarded
    forward_replies       only replies enter the tunnel from elsewhere: from the networks, and of
                          translated connections
    postrouting_nat       translates members' addresses for the networks
    postrouting_sources   a packet that enters the tunnel has a source in the VPN, or is a reply

A program on this machine, such as a container, may open connections into the VPN with this node's
address: `postrouting_sources` comes after translations, and so does not disturb them.

The sets ``networks4_…`` and ``networks6_…`` are named by their content, so they never change. The
sets ``reserved4`` and ``reserved6`` have the addresses that are not the internet's.

With a policy, `policy_chains` judges these packets and their replies too.
"""

import ipaddress
from collections.abc import Iterable, Iterator
from typing import Final

from dstack_vpn.adapters.firewall.table import FAMILIES, Chain, digest
from dstack_vpn.core.model import Cidr
from dstack_vpn.core.policy.networks import RESERVED
from dstack_vpn.ports import FirewallRules

EXITS: Final = {4: "0.0.0.0/0", 6: "::/0"}
"""The networks that stand for the internet, by IP version."""
_ICMP: Final = "meta l4proto { 1, 58 }"


def networks(listed: Iterable[Cidr], version: int) -> list[Cidr]:
    """Return the networks of an IP version, without the internet."""
    return sorted(each for each in listed if (":" in each) is (version == 6) and each != EXITS[version])


def element(network: Cidr) -> str:
    """Return a network as nftables lists it."""
    parsed = ipaddress.ip_network(network)
    return str(parsed.network_address if parsed.prefixlen == parsed.max_prefixlen else parsed)


def outside(rules: FirewallRules, version: int, field: str) -> str:
    """Return the match of addresses that are not the VPN's."""
    prefixes = sorted(prefix for prefix in rules.prefixes if (":" in prefix) is (version == 6))
    header = "ip6" if version == 6 else "ip"
    return "".join(f"{header} {field} != {prefix} " for prefix in prefixes)


def parts(rules: FirewallRules) -> Iterator[tuple[str, str]]:
    """Yield the sets."""
    for version, _, header in FAMILIES:
        if name := _set(rules, version):
            yield f"set {name}", _body(networks(rules.networks or (), version), header)
        if _has_exit(rules, version):
            yield f"set reserved{version}", _body(RESERVED[version], header)


def refused(rules: FirewallRules, prefix: Cidr) -> Iterator[str]:
    """Yield the matches of packets to destinations outside of a VPN's prefix that are refused."""
    header, version = _of_prefix(prefix)
    beyond = f'{header} daddr != {prefix} iifname "{rules.interface}"'
    name, is_exit = _set(rules, version), _has_exit(rules, version)
    others = f" {header} daddr != @{name}" if name else ""
    reserved = f" {header} daddr @reserved{version}" if is_exit else ""
    yield f"{beyond}{others}{reserved}"
    if name or is_exit:
        yield f"{beyond} fib daddr type != unicast"


def accepted(rules: FirewallRules) -> Iterator[str]:
    """Yield the rules of the chain ``forward`` for packets from the VPN to the networks."""
    ours = f'"{rules.interface}"'
    for source, found in _from_members(rules):
        yield f"{source} {found} oifname != {ours} accept"


def translations(rules: FirewallRules) -> Iterator[str]:
    """Yield the rules of the chain ``postrouting_nat``."""
    for source, found in _from_members(rules, translated=True):
        yield f'oifname != "{rules.interface}" {source} {found} counter masquerade'


def chains(rules: FirewallRules, replies: Iterable[str]) -> Iterator[tuple[str, Chain]]:
    """Yield the other chains. ``replies`` are a policy's rules for packets from the networks."""
    if rules.networks is None:
        return
    ours = f'"{rules.interface}"'
    yield (
        "forward_replies",
        Chain.hooked(
            "filter hook forward priority filter - 4",
            [f"iifname {ours} accept", f"oifname != {ours} accept", "ct status dnat accept"],
            ["ct direction original accept"],
            replies if rules.policy is not None else (f"{each} accept" for each in _matches(rules, "saddr")),
            [f"ct state related {_ICMP} accept", "counter drop"],
        ),
    )
    yield (
        "postrouting_sources",
        Chain.hooked(
            "filter hook postrouting priority 105",
            [f"oifname != {ours} accept"],
            (
                f"{'ip6' if ':' in prefix else 'ip'} saddr {prefix} accept"
                for prefix in sorted(rules.prefixes)
            ),
            ["ct direction reply accept", "counter drop"],
        ),
    )


def _from_members(rules: FirewallRules, *, translated: bool = False) -> Iterator[tuple[str, str]]:
    """Yield the matches of packets from members to the networks: their sources and destinations."""
    for prefix in sorted(rules.prefixes):
        header, version = _of_prefix(prefix)
        for found in _matches(rules, "daddr", version, translated=translated):
            yield f"{header} saddr {prefix}", found


def _matches(rules: FirewallRules, field: str, *versions: int, translated: bool = False) -> Iterator[str]:
    """Yield the matches of addresses in the networks.

    With ``translated``, only in those that do not see members' addresses.
    """
    for version, _, header in FAMILIES:
        if versions and version not in versions:
            continue
        name, keeps = _set(rules, version), translated and rules.keeps_source
        if name and not keeps:
            yield f"{header} {field} @{name}"
        if _has_exit(rules, version):
            others = f"{header} {field} != @{name} " if name and keeps else ""
            yield f"{outside(rules, version, field)}{others}{header} {field} != @reserved{version}"


def _of_prefix(prefix: Cidr) -> tuple[str, int]:
    """Return the name of a prefix's header, and its IP version."""
    return ("ip6", 6) if ":" in prefix else ("ip", 4)


def _set(rules: FirewallRules, version: int) -> str:
    """Return the name of the set of networks of an IP version; empty without any."""
    listed = networks(rules.networks or (), version)
    return f"networks{version}_{digest(listed)}" if listed else ""


def _has_exit(rules: FirewallRules, version: int) -> bool:
    return EXITS[version] in (rules.networks or ())


def _body(listed: Iterable[Cidr], header: str) -> str:
    return f"typeof {header} daddr; flags interval; elements = {{ {', '.join(map(element, listed))} }}"
