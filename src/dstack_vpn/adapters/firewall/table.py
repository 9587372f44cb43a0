"""A table of the packet filter as a model, and the transactions between two tables."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Final, NamedTuple

_LEADING: Final = re.compile(r"(?:from|clients)[46](?:_\w+)?", re.ASCII)
"""The chains that lead members to their rights, and packets to the view of a client.

A rule of ``clients…`` always leads to the view of its set. Therefore only the elements of its set
change.
"""
_POLICY: Final = "prerouting_policy"
"""The chain that enforces a policy."""
_NONE: Final = frozenset[str]()


class Chain(NamedTuple):
    """A chain. ``hook`` is empty for a chain that only other chains lead to."""

    hook: str
    rules: tuple[str, ...]


class _Lead(NamedTuple):
    """A rule of a chain that leads the addresses in a set elsewhere."""

    chain: str
    rule: str


@dataclass(frozen=True, slots=True)
class Table:
    """A table."""

    name: str
    chains: Mapping[str, Chain]
    parts: Mapping[str, str] = field(default_factory=dict)
    """The definition of each counter and set, by its kind and name."""
    members: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """The addresses in each set: a group's members, a view's clients, and all clients."""

    def text(self, *, new: bool = False) -> str:
        """Return the commands that replace an existing table. With ``new``, one is an error."""
        at = f"inet {self.name}"
        begin = [f"create table {at}"] if new else [f"add table {at}", f"delete table {at}"]
        lines = [*begin, f"table {at} {{"]
        for part, definition in self.parts.items():
            body = definition
            if members := self.members.get(part.split()[-1]):
                body += f" elements = {{ {', '.join(sorted(members))} }}"
            lines.append(f"  {part} {{ {body} }}")
        for name, each in self.chains.items():
            lines += [f"  chain {name} {{ {each.hook}".rstrip()]
            lines += [*(f"    {rule}" for rule in each.rules), "  }"]
        return "\n".join([*lines, "}", ""])

    def has_structure_of(self, other: "Table") -> bool:
        """Return True if the tables differ at most in the elements of sets."""
        return self.chains == other.chains and self.parts == other.parts


def transactions(old: Table, new: Table) -> list[str]:
    """Return the transactions that lead from a table to another one with the same name.

    A packet that the kernel is processing while a transaction ends is judged by the old rules, but
    the elements of sets in these rules are the new ones. There are up to five transactions, so that
    no packet is lost that both tables allow, and none passes that neither allows. Equal tables need
    no transaction.
    """
    steps = [old, *_between(old, new), new]
    return [commands for before, after in pairwise(steps) if (commands := changes(before, after))]


def _between(old: Table, new: Table) -> list[Table]:
    """Return the tables between."""
    if not old.members or (_POLICY in old.chains) != (_POLICY in new.chains):
        return []
    before, after = _leads(old), _leads(new)
    come = {
        name: joined
        for name, members in new.members.items()
        if (joined := members - old.members.get(name, _NONE))
    }
    ambiguous = (
        old.members[name] != new.members[name]
        for name, rule in after.items()
        if before.get(name, rule) != rule
    )
    if any(ambiguous):
        return _by_second_sets(old, new, come)
    # Members that move are in both sets, and those that leave are in none. The order of the new
    # table comes first: members that only come or leave then need no second transaction.
    present = _NONE.union(*new.members.values())
    members = {name: (each & present) | come.get(name, _NONE) for name, each in old.members.items()}
    return [_united(old, new, after | before | after, {**new.members, **members})]


def _by_second_sets(old: Table, new: Table, come: Mapping[str, frozenset[str]]) -> list[Table]:
    """Return the tables between if a set gets other members and other rights.

    Its old members would get the new rights, or its new ones the old rights. Therefore, all that
    move or come are in second sets meanwhile. These lead to the new rights, before other sets.
    """
    after = _leads(new)
    come = {name: members for name, members in come.items() if name in after}
    leads = {
        f"{name}_": _Lead(after[name].chain, after[name].rule.replace(f"@{name} ", f"@{name}_ "))
        for name in come
    }
    second = {f"{name}_": members for name, members in come.items()}
    parts = {f"set {name}_": new.parts[f"set {name}"] for name in come}
    made, left = (
        _united(old, new, {**leads, **_leads(table)}, {**table.members, **second}) for table in (old, new)
    )
    return [replace(each, parts={**each.parts, **parts}) for each in (made, left)]


def _united(
    old: Table, new: Table, leads: Mapping[str, _Lead], members: Mapping[str, frozenset[str]]
) -> Table:
    """Return a table with the parts of both, and with these sets of members."""
    chains = {**new.chains, **old.chains}
    for name in filter(_LEADING.fullmatch, chains):
        chains[name] = Chain("", tuple(lead.rule for lead in leads.values() if lead.chain == name))
    return Table(new.name, chains, {**old.parts, **new.parts}, members)


def _leads(table: Table) -> dict[str, _Lead]:
    """Return the rule that leads the addresses of each set elsewhere, by the set's name."""
    names = filter(_LEADING.fullmatch, table.chains)
    leads = (_Lead(name, rule) for name in names for rule in table.chains[name].rules)
    return {lead.rule.split()[2].removeprefix("@"): lead for lead in leads}


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
        rules = new.chains[name].rules
        lines += [] if name in fresh else [f"flush chain {at} {name}"]
        lines += [f"add rule {at} {name} {rule}" for rule in rules]
    # A set that is removed has no references when its chains are flushed.
    lines += [f"flush chain {at} {name}" for name in gone]
    for name in sorted(new.members):
        lines += _member_changes(f"{at} {name}", old.members.get(name, frozenset()), new.members[name])
    lines += [f"delete chain {at} {name}" for name in gone]
    lines += [f"delete {_at(part, at)}" for part in old.parts if part not in new.parts]
    return "".join(f"{line}\n" for line in lines)


def _at(part: str, at: str) -> str:
    kind, _, name = part.partition(" ")
    return f"{kind} {at} {name}"


def _member_changes(at: str, old: frozenset[str], new: frozenset[str]) -> Iterator[str]:
    if old is new:
        return
    if away := old - new:
        yield f"delete element {at} {{ {', '.join(sorted(away))} }}"
    if come := new - old:
        yield f"add element {at} {{ {', '.join(sorted(come))} }}"
