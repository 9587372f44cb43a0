"""The rules of this node, kept current by changes of single members."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from dstack_vpn.core.policy.compiler import NO_RIGHTS, CompiledPolicy, RightsClass, Subject
from dstack_vpn.core.policy.rules import GroupName, GroupRights, PolicyRules


@dataclass(slots=True)
class RuleTable:
    """The groups of members and their rights under one compiled policy."""

    compiled: CompiledPolicy
    own: frozenset[str]
    """The tunnel addresses that these rules are about, which are this node's or its clients'."""
    prefix: str = "m"
    """The beginning of the groups' names."""
    _subjects: dict[str, Subject] = field(default_factory=dict, init=False)
    """The members by address, with and without rights."""
    _members: dict[str, GroupName] = field(default_factory=dict, init=False)
    _names: dict[RightsClass, GroupName] = field(default_factory=dict, init=False)
    _used: Counter[GroupName] = field(default_factory=Counter, init=False)
    _made: int = field(default=0, init=False)
    """The number of group names so far."""
    _rules: PolicyRules | None = field(default=None, init=False)
    """The rules as they are now; None after a change."""

    @property
    def rules(self) -> PolicyRules:
        """The rules now: the same object until something changes."""
        if self._rules is None:
            classes = self.compiled.classes
            groups = {name: classes[number] for number, name in self._names.items() if self._used[name] > 0}
            self._rules = PolicyRules(self.own, dict(self._members), groups)
        return self._rules

    def put(self, addresses: Iterable[str], subject: Subject | None) -> bool:
        """Set the member that has these addresses; None if none has. Returns whether that changes
        a rule.
        """
        found = NO_RIGHTS if subject is None else self.compiled.class_of(subject)
        name = None if found == NO_RIGHTS else self._name_of(found)
        moved = False
        for address in addresses:
            if subject is None:
                self._subjects.pop(address, None)
            else:
                self._subjects[address] = subject
            moved |= self._move(address, name)
        return moved

    @property
    def subjects(self) -> Mapping[str, Subject]:
        """The members by address, with and without rights."""
        return self._subjects

    def serve(self, own: frozenset[str]) -> None:
        """Change the addresses that the rules are about."""
        self.own, self._rules = own, None

    def replace(self, compiled: CompiledPolicy, own: frozenset[str]) -> None:
        """Change to another policy.

        Each group keeps its name if most of its members stay together. Few members then move.
        """
        classes = self._classes(compiled)
        votes = Counter(zip(classes.values(), map(self._members.get, classes), strict=True))
        names: dict[RightsClass, GroupName] = {}
        taken: set[GroupName | None] = {None}
        for (number, name), _ in votes.most_common():
            if number not in names and name not in taken:
                assert name is not None
                names[number] = name
                taken.add(name)
        self.compiled, self.own, self._names, self._rules = compiled, own, names, None
        for number, _ in votes:
            self._name_of(number)
        self._members = {address: names[number] for address, number in classes.items()}
        self._used = Counter(self._members.values())

    def _classes(self, compiled: CompiledPolicy) -> dict[str, RightsClass]:
        """Return the rights of each address that has some."""
        found: dict[str, RightsClass] = {}
        before, number = None, NO_RIGHTS
        for address, subject in self._subjects.items():
            if subject is not before:  # a member's addresses follow each other
                before, number = subject, compiled.class_of(subject)
            if number != NO_RIGHTS:
                found[address] = number
        return found

    def _move(self, address: str, name: GroupName | None) -> bool:
        before = self._members.get(address)
        if before == name:
            return False
        if before is not None:
            self._used[before] -= 1
            del self._members[address]
        if name is not None:
            self._used[name] += 1
            self._members[address] = name
        self._rules = None
        return True

    def _name_of(self, number: RightsClass) -> GroupName:
        name = self._names.get(number)
        if name is None:
            name = self._names[number] = f"{self.prefix}{self._made}"
            self._made += 1
        return name


def rights_of(rules: PolicyRules, address: str) -> GroupRights:
    """Return the rights of the member with a tunnel address; empty without any."""
    group = rules.members.get(address)
    return GroupRights() if group is None else rules.groups[group]
