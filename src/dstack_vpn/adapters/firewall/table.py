"""A table of the packet filter as a model, and the transactions between two tables."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import NamedTuple

from dstack_vpn.core.policy.rules import GroupName


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
            for member, group in members.items()
            if group in edited and old.members[name].get(member) != group
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
    away = [member for member, group in old.items() if new.get(member) != group]
    come = [(member, group) for member, group in new.items() if old.get(member) != group]
    if away:
        yield f"delete element {at} {{ {', '.join(sorted(away))} }}"
    if come:
        yield f"add element {at} {{ {_elements(sorted(come))} }}"


def _element(member: tuple[str, GroupName]) -> str:
    return f"{member[0]} : jump group_{member[1]}"


def _elements(members: Iterable[tuple[str, GroupName]]) -> str:
    return ", ".join(map(_element, members))
