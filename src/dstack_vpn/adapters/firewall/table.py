"""A table of the packet filter as a model, and the commands that change it to another one."""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from itertools import chain, groupby
from typing import Final, NamedTuple, TypeAlias

from dstack_vpn.core.policy.rules import Addresses
from dstack_vpn.errors import FirewallError


class Lead(NamedTuple):
    """The addresses in two maps, one for each IP version, that lead to a chain. Or in two sets."""

    name: str
    """The name of both, with ``{}`` for the IP version."""
    chain: str
    """The chain. Empty in a set."""

    @property
    def names(self) -> tuple[str, str]:
        """The names, for IPv4 and for IPv6."""
        return self.name.format(4), self.name.format(6)

    @property
    def verdict(self) -> str:
        """The part of an element after its address."""
        return f" : jump {self.chain}" if self.chain else ""

    def elements(self, addresses: Collection[str]) -> str:
        """Return addresses as elements."""
        if not addresses:
            return ""
        check_addresses(addresses)
        verdict = self.verdict
        return ", ".join(f"{address}{verdict}" for address in sorted(addresses))


Leads: TypeAlias = Mapping[Lead, Addresses]
"""The elements of the maps and sets of addresses. An address is in each of them once at most."""
FAMILIES: Final = ((4, "ipv4", "ip"), (6, "ipv6", "ip6"))
"""For each IP version its name, and that of its header."""
MEMBERS: Final = "members{}"
"""The maps that lead a packet by its source to a member's group. Those of a view have its name."""
CLIENTS: Final = "clients{}"
"""The maps that lead a packet by its destination to the view of a plain client."""
FORWARDED: Final = Lead("forwarded{}", "")
"""The sets of plain clients."""
_ADDRESSES: Final = re.compile(r"[0-9a-f.:]*", re.ASCII)
NOBODY: Final = Addresses(frozenset(), frozenset())


class Chain(NamedTuple):
    """A chain. ``hook`` is empty for a chain that only other chains lead to."""

    hook: str
    rules: tuple[str, ...]

    @classmethod
    def hooked(cls, hook: str, *rules: Iterable[str]) -> "Chain":
        """Return a chain that packets pass, which accepts by default."""
        return cls(f"type {hook}; policy accept;", tuple(chain.from_iterable(rules)))


@dataclass(frozen=True, slots=True)
class Table:
    """A table."""

    name: str
    chains: Mapping[str, Chain]
    parts: Mapping[str, str] = field(default_factory=dict)
    """The definition of each counter, map and set, by its kind and name."""
    leads: Leads = field(default_factory=dict)

    def text(self, *, new: bool = False) -> str:
        """Return the commands that replace an existing table. With ``new``, one is an error."""
        at = f"inet {self.name}"
        begin = [f"create table {at}"] if new else [f"add table {at}", f"delete table {at}"]
        lines = [*begin, f"table {at} {{"]
        elements: dict[str, list[str]] = {}
        for lead, addresses in sorted(self.leads.items()):
            for name, each in zip(lead.names, addresses, strict=True):
                elements.setdefault(name, []).append(lead.elements(each))
        for part, definition in self.parts.items():
            listed = ", ".join(filter(None, elements.get(_name(part), ())))
            lines.append(f"  {part} {{ {definition}{f' elements = {{ {listed} }}' if listed else ''} }}")
        for name, rules in self.chains.items():
            lines += [f"  chain {name} {{ {rules.hook}".rstrip()]
            lines += [*(f"    {rule}" for rule in rules.rules), "  }"]
        return "\n".join([*lines, "}", ""])

    def has_structure_of(self, other: "Table") -> bool:
        """Return True if the tables differ at most in the leads."""
        return self.chains == other.chains and self.parts == other.parts

    def elements(self) -> dict[str, frozenset[str]]:
        """Return the elements of each map and set as `listing.elements` does."""
        found: dict[str, set[str]] = {}
        for part, definition in self.parts.items():
            if part.startswith(("map ", "set ")) and not part.startswith("set denied"):
                listed = definition.partition("elements = { ")[2].removesuffix(" }")
                found[_name(part)] = set(listed.split(", ")) if listed else set()
        for lead, addresses in self.leads.items():
            verdict = lead.verdict
            for name, each in zip(lead.names, addresses, strict=True):
                found[name].update(f"{address}{verdict}" for address in each)
        return {name: frozenset(elements) for name, elements in found.items()}

    def names(self) -> set[str]:
        """Return the names of the counters, maps and sets."""
        return set(map(_name, self.parts))

    def with_leads(self, leads: Leads) -> "Table":
        """Return the table with other addresses for these leads."""
        return replace(self, leads={**self.leads, **leads})


def _name(part: str) -> str:
    return part.partition(" ")[2]


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
    lines = []
    for name in (name for name in new.chains if name in fresh):
        hook = new.chains[name].hook
        lines.append(f"add chain {at} {name}{f' {{ {hook} }}' if hook else ''}")
    lines += [
        f"add {_at(part, at)} {{ {body} }}" for part, body in new.parts.items() if part not in old.parts
    ]
    for name in edited:
        lines += [] if name in fresh else [f"flush chain {at} {name}"]
        lines += [f"add rule {at} {name} {rule}" for rule in new.chains[name].rules]
    lines += _element_changes(at, old, new)
    # A map or set that is removed has no references when its chains are flushed. A chain that is
    # removed has none when its maps are.
    lines += [f"flush chain {at} {name}" for name in gone]
    lines += [f"delete {_at(part, at)}" for part in old.parts if part not in new.parts]
    lines += [f"delete chain {at} {name}" for name in gone]
    return "".join(f"{line}\n" for line in lines)


def _at(part: str, at: str) -> str:
    kind, _, name = part.partition(" ")
    return f"{kind} {at} {name}"


def _element_changes(at: str, old: Table, new: Table) -> Iterator[str]:
    known = new.names()
    for _, found in groupby(sorted(old.leads.keys() | new.leads.keys()), lambda lead: lead.name):
        leads = list(found)
        for version, each in enumerate(leads[0].names):
            if each in known:
                yield from _changes_of(f"{at} {each}", version, leads, old, new)


def _changes_of(at: str, version: int, leads: list[Lead], old: Table, new: Table) -> Iterator[str]:
    """Yield the changes of one map or set."""
    away, come = list[str](), list[str]()
    for lead in leads:
        before, after = (table.leads.get(lead, NOBODY)[version] for table in (old, new))
        if before is not after:
            away += before - after
            come.append(lead.elements(after - before))
    if away:
        yield f"delete element {at} {{ {', '.join(sorted(away))} }}"
    if listed := ", ".join(filter(None, come)):
        yield f"add element {at} {{ {listed} }}"


def digest(texts: Iterable[str]) -> str:
    """Return a name for a content, of hexadecimal digits."""
    return blake2b("\n".join(texts).encode(), digest_size=6).hexdigest()


def by_version(addresses: Collection[str]) -> Addresses:
    """Return addresses by their IP version."""
    ipv6 = frozenset(address for address in addresses if ":" in address)
    return Addresses(frozenset(addresses) - ipv6, ipv6)


def check_addresses(addresses: Collection[str]) -> None:
    """Raise `FirewallError` if one of these can't be an address."""
    # One match for 20,000 addresses takes 1 ms, and one for each of them 3 ms.
    if not _ADDRESSES.fullmatch("".join(addresses)):
        address = next(each for each in addresses if not _ADDRESSES.fullmatch(each))
        raise FirewallError(f"the rules have an invalid address: {address!r}")
