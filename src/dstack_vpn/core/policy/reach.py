"""The pairs of members that may talk, and the pairs that another policy gives or takes access.

A network of 1,000 members has a million pairs. Members that the same selectors name have the same
rights, so they form a group, and groups are compared instead of members. The set of grants that
name a member is a bit mask: grant i (from 0) is bit i.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import islice, product
from typing import NamedTuple, TypeAlias

from dstack_vpn.core.policy.directory import Member, MemberDirectory
from dstack_vpn.core.policy.document import Grant, PolicyDocument
from dstack_vpn.core.policy.port_set import PortSet
from dstack_vpn.core.policy.selectors import Ports, Selector, SelectorKind

_ANY, _SELF = Selector(SelectorKind.ANY), Selector(SelectorKind.SELF)
_Mask: TypeAlias = int


class Naming(NamedTuple):
    """The grants that name a member."""

    src: _Mask
    dst: _Mask


class GrantIndex:
    """The grants of a policy by the selectors that members match."""

    def __init__(self, policy: PolicyDocument) -> None:
        self._grants = policy.grants
        self._src, self._dst = _masks(policy, lambda g: g.src), _masks(policy, lambda g: g.dst)
        self._own = self._dst.get(_SELF, 0)

    def naming(self, member: Member) -> Naming:
        """Return the grants that name a member, without those to nodes of the same owner."""
        src = dst = 0
        for selector in _selectors_of(member):
            src |= self._src.get(selector, 0)
            dst |= self._dst.get(selector, 0)
        return Naming(src, dst)

    def between(self, src: Naming, dst: Naming) -> tuple[_Mask, _Mask]:
        """Return the grants from a member to another of another owner, and of the same owner."""
        return src.src & dst.dst, src.src & (dst.dst | self._own)

    def to(self, selectors: Iterable[Selector]) -> _Mask:
        """Return the grants that have one of these selectors as a destination."""
        found = 0
        for selector in selectors:
            found |= self._dst.get(selector, 0)
        return found

    def ports(self, mask: _Mask) -> tuple[Ports, ...]:
        """Return the ports of grants, in the grants' order."""
        found = (each for index in _bits(mask) for each in self._grants[index].ip)
        return tuple(dict.fromkeys(found))


def _masks(policy: PolicyDocument, side: Callable[[Grant], Iterable[Selector]]) -> dict[Selector, _Mask]:
    found: dict[Selector, _Mask] = defaultdict(int)
    for index, grant in enumerate(policy.grants):
        for selector in side(grant):
            found[selector] |= 1 << index
    return dict(found)


def _selectors_of(member: Member) -> Iterator[Selector]:
    """Yield the selectors that name a member, as `Member.matches` defines them."""
    yield _ANY
    yield Selector(SelectorKind.OWNER, member.owner)
    if member.node_id is not None:
        yield Selector(SelectorKind.NODE, member.node_id)
    for tag in member.tags:
        yield Selector(SelectorKind.TAG, tag)


def _bits(mask: _Mask) -> Iterator[int]:
    while mask:
        lowest = mask & -mask
        yield lowest.bit_length() - 1
        mask ^= lowest


@dataclass(frozen=True)
class MemberGroup:
    """The members that the same grants name."""

    members: tuple[Member, ...]
    naming: tuple[Naming, ...]
    """For each of the policies."""
    versions: frozenset[int]
    """The IP versions of a member's addresses: a pair needs a common one."""

    @cached_property
    def owners(self) -> Counter[str]:
        """The number of members by owner."""
        return Counter(member.owner for member in self.members)


def groups_of(indexes: tuple[GrantIndex, ...], members: Iterable[Member]) -> list[MemberGroup]:
    """Return the members by group, in their order."""
    found: dict[tuple[tuple[Naming, ...], frozenset[int]], list[Member]] = defaultdict(list)
    for member in members:
        naming = tuple(index.naming(member) for index in indexes)
        found[naming, frozenset(address.version for address in member.addresses)].append(member)
    return [MemberGroup(tuple(group), *key) for key, group in found.items()]


def pairs(
    policy: PolicyDocument, directory: MemberDirectory
) -> Iterator[tuple[Member, Member, tuple[Ports, ...]]]:
    """Yield each member, each other one that it may reach, and the ports in the grants' order."""
    index = GrantIndex(policy)
    groups, ports_of = groups_of((index,), directory.members), cache(index.ports)
    number_of = {m.token: number for number, group in enumerate(groups) for m in group.members}
    listed = [(member, member.owner, number_of[member.token]) for member in directory.members]
    reach = [
        [tuple(ports_of(mask) for mask in _between(index, 0, src, dst)) for dst in groups] for src in groups
    ]
    for src, owner, group in listed:
        row = reach[group]
        for dst, other_owner, other in listed:
            if (found := row[other][owner == other_owner]) and dst is not src:
                yield src, dst, found


def _between(index: GrantIndex, number: int, src: MemberGroup, dst: MemberGroup) -> tuple[_Mask, _Mask]:
    """Return the grants between members of two owners, and of one owner."""
    if not src.versions & dst.versions:
        return 0, 0
    return index.between(src.naming[number], dst.naming[number])


@dataclass(frozen=True, slots=True)
class PairBlock:
    """Pairs from one group of members to another one, or within one, with the same ports."""

    source: MemberGroup
    destination: MemberGroup
    ports: PortSet
    same_owner: bool | None = None
    """Only pairs of one owner, or only pairs of two; None: all."""

    @property
    def count(self) -> int:
        """The number of pairs, which have two different members."""
        here, there = self.source, self.destination
        alike = sum(number * there.owners[owner] for owner, number in here.owners.items())
        unlike = len(here.members) * len(there.members) - alike
        alike -= len(here.members) if here is there else 0
        return {True: alike, False: unlike, None: alike + unlike}[self.same_owner]

    def __iter__(self) -> Iterator[tuple[Member, Member, PortSet]]:
        for src in self.source.members:
            for dst in self.destination.members:
                if dst is not src and self.same_owner in {None, src.owner == dst.owner}:
                    yield src, dst, self.ports


def examples(
    index: GrantIndex, sources: Iterable[Member], destinations: Iterable[Member]
) -> Iterator[tuple[Member, Member, tuple[Ports, ...]]]:
    """Yield one pair for each combination of groups, and its ports.

    All other pairs of that combination have the same ports.
    """
    ports_of = cache(index.ports)
    for src, dst in product(groups_of((index,), sources), groups_of((index,), destinations)):
        if not src.versions & dst.versions:
            continue
        unlike, alike = _between(index, 0, src, dst)
        for same_owner, mask in ((None, alike),) if unlike == alike else ((False, unlike), (True, alike)):
            for near, far, _ in islice(PairBlock(src, dst, PortSet(), same_owner), 1):
                yield near, far, ports_of(mask)


@dataclass(frozen=True, slots=True)
class PairChanges:
    """The pairs that get access to more ports, and those that lose some.

    A pair can be in both. ``ports`` of each block are the added ports, or the removed ones.
    """

    gained: tuple[PairBlock, ...]
    lost: tuple[PairBlock, ...]


def compare(before: PolicyDocument, after: PolicyDocument, directory: MemberDirectory) -> PairChanges:
    """Return the pairs whose ports differ between two policies."""
    old, new = indexes = GrantIndex(before), GrantIndex(after)
    groups, difference = groups_of(indexes, directory.members), differences(old, new)
    changes: tuple[list[PairBlock], list[PairBlock]] = [], []
    for src, dst in product(groups, groups):
        was, now = _between(old, 0, src, dst), _between(new, 1, src, dst)
        unlike, alike = map(difference, was, now)
        for blocks, others, owns in zip(changes, unlike, alike, strict=True):
            found = [(others, None)] if others == owns else [(others, False), (owns, True)]
            blocked = (PairBlock(src, dst, ports, same) for ports, same in found if ports)
            blocks.extend(block for block in blocked if block.count)
    return PairChanges(tuple(changes[0]), tuple(changes[1]))


def differences(old: GrantIndex, new: GrantIndex) -> Callable[[_Mask, _Mask], tuple[PortSet, PortSet]]:
    """Return a function of grants of two policies: the ports that the second adds, and removes."""

    @cache
    def difference(was: _Mask, now: _Mask) -> tuple[PortSet, PortSet]:
        first, second = PortSet.of(old.ports(was)), PortSet.of(new.ports(now))
        return second - first, first - second

    return difference


def count(blocks: Iterable[PairBlock]) -> int:
    """Return the number of pairs."""
    return sum(block.count for block in blocks)
