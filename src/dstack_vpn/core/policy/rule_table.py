"""The rules of this node, kept current by changes of single members."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from dstack_vpn.core.policy.compiler import NO_RIGHTS, CompiledPolicy, RightsClass, Subject
from dstack_vpn.core.policy.rules import GroupName, GroupRights, PolicyRules


@dataclass(slots=True)
class RuleTable:
    """The groups of members and their rights under one compiled policy."""

    compiled: CompiledPolicy
    own: frozenset[str]
    """This node's tunnel addresses."""
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
        moved = [address for address in addresses if self._members.get(address) != name]
        for address in moved:
            if (before := self._members.pop(address, None)) is not None:
                self._used[before] -= 1
            if name is not None:
                self._members[address] = name
                self._used[name] += 1
            self._rules = None
        return bool(moved)

    def replace(
        self,
        compiled: CompiledPolicy,
        own: frozenset[str],
        members: Iterable[tuple[tuple[str, ...], Subject]],
    ) -> None:
        """Change to another policy, with all members and their addresses.

        Each group keeps its name if most of its members stay together. Few members then move.
        """
        classes = [(addresses, compiled.class_of(subject)) for addresses, subject in members]
        found = [(addresses, number) for addresses, number in classes if addresses and number != NO_RIGHTS]
        votes = Counter((number, self._members.get(addresses[0])) for addresses, number in found)
        names: dict[RightsClass, GroupName] = {}
        taken: set[GroupName | None] = {None}
        for (number, name), _ in votes.most_common():
            if number not in names and name not in taken:
                assert name is not None
                names[number] = name
                taken.add(name)
        self.compiled, self.own, self._names, self._rules = compiled, own, names, None
        for number in {number for _, number in found}:
            self._name_of(number)
        self._members = {address: names[number] for addresses, number in found for address in addresses}
        self._used = Counter(self._members.values())

    def _name_of(self, number: RightsClass) -> GroupName:
        name = self._names.get(number)
        if name is None:
            name = self._names[number] = f"m{self._made}"
            self._made += 1
        return name


def rights_of(rules: PolicyRules, address: str) -> GroupRights:
    """Return the rights of the member with a tunnel address; empty without any."""
    group = rules.members.get(address)
    return GroupRights() if group is None else rules.groups[group]
