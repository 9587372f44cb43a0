"""Parsers of what nftables lists: whose a table is, what it refuses, what it has counted."""

import re
from fnmatch import fnmatchcase
from typing import Final

from dstack_vpn.core.policy.rules import GrantId
from dstack_vpn.ports import DeniedPackets, PacketCount

_NAMES: Final = {
    "chain": re.compile(
        r"output|prerouting_raw|input|forward|prerouting_nat|postrouting_nat|prerouting_policy|denied"
        r"|forward_replies|postrouting_sources"
        r"|(?:allow|group|view|rights|replies)_\w+"
    ),
    "counter": re.compile(r"denied|grant_\w+"),
    "map": re.compile(r"members[46](?:_\w+)?|clients[46]|ports_\w+|zones[46]_\w+"),
    "set": re.compile(r"denied[46](?:_other)?|forwarded[46]|networks[46]_\w+|reserved[46]"),
}
"""The names in our tables, by kind."""
_OURS_ALONE: Final = frozenset({"prerouting_raw", "prerouting_nat", "prerouting_policy"})
"""Our table has one of these chains. A table of another program may have the other names."""
_NETWORKS: Final = re.compile(r"networks[46]_[0-9a-f]{12}|reserved[46]")
"""The same, of sets: a gateway without leak protection has only a chain that others may have."""
_FORMER_CHAINS: Final = frozenset({"leaving", "entering", "arriving", "passing", "handing", "behind"})
"""The chain names in tables that version 0.1 may have left behind."""
_COUNTER: Final = re.compile(r"\tcounter (\w+) \{\s+packets ([0-9]+) bytes ([0-9]+)\s", re.ASCII)
_MAP: Final = re.compile(
    r"\t(?:map|set) ((?!denied)\w+) \{\n(?:\t\t(?!elements).*\n)*(?:\t\telements = \{([^}]*)\}\n)?"
)
_GRANT: Final = re.compile(r"grant_([a-z0-9]+)_([0-9]+)", re.ASCII)
_DENIED: Final = re.compile(
    r"([0-9a-f.:]+) \. ([0-9a-f.:]+) \. ([0-9]+)(?: \. ([0-9]+))? counter packets ([0-9]+) bytes", re.ASCII
)


def of_table(ruleset: str, name: str) -> str | None:
    """Return one table of all listed tables of the family inet. None if it is missing."""
    found = re.search(rf"^table inet {re.escape(name)} \{{\n(?:.*\n)*?\}}\n", ruleset, re.MULTILINE)
    return None if found is None else found[0]


def is_ours(table: str) -> bool:
    """Return True if a listed table has only parts that ours have, and one that only ours has."""
    parts = re.findall(r"^\t(\w+) (\S+) ?(?:\{|$)", table, re.MULTILINE)
    chains = {name for kind, name in parts if kind == "chain"}
    if not parts or (chains and len(chains) == len(parts) and chains <= _FORMER_CHAINS):
        return True
    known = all(kind in _NAMES and _NAMES[kind].fullmatch(name) for kind, name in parts)
    sets = {name for kind, name in parts if kind == "set"}
    return known and (bool(chains & _OURS_ALONE) or any(map(_NETWORKS.fullmatch, sets)))


def enforces_policy(table: str) -> bool:
    """Return True if a listed table of ours enforces a policy."""
    return "\tchain prerouting_policy {" in table


def elements(table: str) -> dict[str, frozenset[str]]:
    """Return the elements of each map and set in a listed table, except those of denied packets."""
    return {
        name: frozenset(text for part in listed.split(",") if (text := part.strip()))
        for name, listed in _MAP.findall(table)
    }


def counters(listed: str) -> tuple[dict[GrantId, PacketCount], PacketCount]:
    """Return the counts of grants, and of denied packets, from the listed counters of a table."""
    granted, denied = {}, PacketCount(0, 0)
    for name, packets, size in _COUNTER.findall(listed):
        count = PacketCount(int(packets), int(size))
        if grant := _GRANT.fullmatch(name):
            granted[GrantId(grant[1], int(grant[2]))] = count
        elif name == "denied":
            denied = count
    return granted, denied


def denied_packets(listed: str) -> list[DeniedPackets]:
    """Return the elements of a listed set of denied packets."""
    return [
        DeniedPackets(source, destination, int(protocol), int(port or 0), int(packets))
        for source, destination, protocol, port, packets in _DENIED.findall(listed)
    ]


def refuses_forwarding(chains: str) -> list[tuple[str, str]]:
    """Return the tables, as family and name, with a chain that drops forwarded packets.

    ``chains`` is the output of ``list chains``.
    """
    found, table = [], ("", "")
    for line in chains.splitlines():
        if head := re.match(r"table (\S+) (\S+) \{", line):
            table = (head[1], head[2])
        elif "hook forward" in line and "policy drop" in line:
            found.append(table)
    return found


def lets_through(table: str, interface: str) -> bool:
    """Return True if a rule in a listed table accepts our interface or translated packets."""
    for line in table.splitlines():
        verdict = re.search(r"\b(accept|jump|goto)\b", line)
        names = re.findall(r'iifname "([^"]*)"', line)
        if verdict and ("dnat" in line or any(fnmatchcase(interface, name) for name in names)):
            return True
    return False
