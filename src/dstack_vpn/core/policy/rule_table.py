"""The rules of this node, kept current by changes of single members."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import chain
from typing import TypeAlias

from dstack_vpn.core.policy.compiler import NO_RIGHTS, CompiledPolicy, RightsClass, Subject
from dstack_vpn.core.policy.rules import Addresses, GroupName, PolicyRules

Member: TypeAlias = tuple[str, ...]
"""The tunnel addresses of a member, sorted."""


@dataclass(slots=True)
class _Group:
    """The members of a group. Their addresses are copied only after a change."""

    members: set[Member] = field(default_factory=set)
    ipv4: set[str] = field(default_factory=set)
    ipv6: set[str] = field(default_factory=set)
    copied: Addresses | None = None

    @classmethod
    def of(cls, members: set[Member]) -> "_Group":
        """Return a group with members."""
        every = set(chain.from_iterable(members))
        ipv6 = {address for address in every if ":" in address}
        return cls(members, every - ipv6, ipv6)

    @property
    def addresses(self) -> Addresses:
        """The addresses: the same object until something changes."""
        if self.copied is None:
            self.copied = Addresses(frozenset(self.ipv4), frozenset(self.ipv6))
        return self.copied

    def add(self, member: Member) -> None:
        """Add a member."""
        self.members.add(member)
        for address in member:
            (self.ipv6 if ":" in address else self.ipv4).add(address)
        self.copied = None

    def remove(self, member: Member) -> None:
        """Remove a member of the group."""
        self.members.remove(member)
        for address in member:
            (self.ipv6 if ":" in address else self.ipv4).remove(address)
        self.copied = None


@dataclass(slots=True)
class RuleTable:
    """The groups of members and their rights under one compiled policy."""

    compiled: CompiledPolicy
    own: frozenset[str]
    """The tunnel addresses that these rules are about: this node's, or its clients'."""
    prefix: str = "m"
    """The beginning of the groups' names."""
    _subjects: dict[Member, Subject] = field(default_factory=dict, init=False)
    """All members, with and without rights."""
    _members: dict[Member, GroupName] = field(default_factory=dict, init=False)
    """The group of each member that has rights."""
    _groups: dict[GroupName, _Group] = field(default_factory=dict, init=False)
    """The groups; none is empty."""
    _names: dict[RightsClass, GroupName] = field(default_factory=dict, init=False)
    _made: int = field(default=0, init=False)
    """The number of group names so far."""
    _rules: PolicyRules | None = field(default=None, init=False)
    """The rules as they are now; None after a change."""

    @property
    def rules(self) -> PolicyRules:
        """The rules now: the same object until something changes."""
        if self._rules is None:
            classes = self.compiled.classes
            groups = {name: classes[number] for number, name in self._names.items() if name in self._groups}
            members = {name: self._groups[name].addresses for name in groups}
            self._rules = PolicyRules(self.own, members, groups)
        return self._rules

    def put(self, addresses: Iterable[str], subject: Subject | None) -> bool:
        """Set the member that has these addresses; None if none has. Returns whether that changes
        a rule.
        """
        member = tuple(sorted(addresses))
        if subject is None:
            self._subjects.pop(member, None)
            return self._move(member, None)
        self._subjects[member] = subject
        number = self.compiled.class_of(subject)
        return self._move(member, None if number == NO_RIGHTS else self._name_of(number))

    def copy(self, compiled: CompiledPolicy, prefix: str) -> "RuleTable":
        """Return the rules for the same members under another policy, about no address."""
        table = RuleTable(compiled, frozenset(), prefix)
        table._subjects = dict(self._subjects)
        table._regroup(compiled)
        return table

    def serve(self, own: frozenset[str]) -> None:
        """Change the addresses that the rules are about."""
        self.own, self._rules = own, None

    def replace(self, compiled: CompiledPolicy, own: frozenset[str]) -> None:
        """Change to another policy.

        Each group keeps its name if most of its members stay together. Few members then move.
        """
        self.serve(own)
        translated = self.compiled.translated(compiled)
        if translated is None:
            self._regroup(compiled)
        else:
            self.compiled = compiled
            self._names = {translated[number]: name for number, name in self._names.items()}

    def _regroup(self, compiled: CompiledPolicy) -> None:
        """Find the group of every member under another policy."""
        numbers = compiled.classes_of(self._subjects.values())
        classes = {
            member: number
            for member, number in zip(self._subjects, numbers, strict=True)
            if number != NO_RIGHTS
        }
        votes = Counter(zip(classes.values(), map(self._members.get, classes), strict=True))
        names = dict[RightsClass, GroupName]()
        taken: set[GroupName | None] = {None}
        for (number, name), _ in votes.most_common():
            if number not in names and name not in taken:
                assert name is not None
                names[number] = name
                taken.add(name)
        self.compiled, self._names = compiled, names
        for number, _ in votes:
            self._name_of(number)
        self._members = {member: names[number] for member, number in classes.items()}
        before, members = self._groups, defaultdict[GroupName, set[Member]](set)
        for member, name in self._members.items():
            members[name].add(member)
        self._groups = {
            name: before[name] if name in before and before[name].members == each else _Group.of(each)
            for name, each in members.items()
        }

    def _move(self, member: Member, name: GroupName | None) -> bool:
        before = self._members.get(member)
        if before == name:
            return False
        if before is not None:
            del self._members[member]
            self._groups[before].remove(member)
            if not self._groups[before].members:
                del self._groups[before]
        if name is not None:
            self._members[member] = name
            self._groups.setdefault(name, _Group()).add(member)
        self._rules = None
        return True

    def _name_of(self, number: RightsClass) -> GroupName:
        name = self._names.get(number)
        if name is None:
            name = self._names[number] = f"{self.prefix}{self._made}"
            self._made += 1
        return name
