"""The policies in force, compiled for this node: the rights between it and each other member.

Every policy must permit a connection. The result for a member depends only on its node id, owner
and tags, as far as a policy names them. Members that agree in these are compiled once.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeAlias
from typing import Protocol as TypeProtocol

from dstack_vpn.core.chain.contract import Hash
from dstack_vpn.core.model import Address, Cidr
from dstack_vpn.core.policy.document import Grant, PolicyDocument
from dstack_vpn.core.policy.networks import Zone, zones
from dstack_vpn.core.policy.rules import GrantId, GroupRights, PortRight
from dstack_vpn.core.policy.selectors import Ports, Protocol, Selector, SelectorKind

RightsClass: TypeAlias = int
"""The number of a `GroupRights` in `CompiledPolicy.classes`."""
NO_RIGHTS: Final[RightsClass] = 0

_TRANSPORTS: Final = (Protocol.TCP, Protocol.UDP, Protocol.ICMP)
_Range: TypeAlias = tuple[int, int, GrantId]
"""The first and the last port, inclusive, and the grant that opens them."""


class Subject(NamedTuple):
    """The properties of a member by which a policy selects it."""

    node_id: str | None
    owner: Address
    tags: int
    """A bit mask."""
    routes: tuple[Cidr, ...] = ()
    """The networks behind it. They decide only about who its peers are."""


@dataclass(frozen=True, slots=True)
class PolicyInForce:
    """A policy that must permit each connection."""

    id: str
    """See `GrantId.policy`."""
    document: PolicyDocument
    hash: Hash | None = None
    """None for POLICY_FILE."""
    text: str | None = None
    """The text of a policy of the registry."""


class PolicyConnections(TypeProtocol):
    """The members that the policies connect with this node."""

    def connects(self, subject: Subject) -> bool:
        """Return whether a grant connects a member with this node, or with a client of it."""

    def connected(self, subjects: Sequence[Subject]) -> list[bool]:
        """Return `connects` for each of these members."""

    def connects_as(self, former: "PolicyConnections | None") -> bool:
        """Return True if both connect the same members. False: that must be looked at."""

    def rights_with(self, subject: Subject) -> GroupRights:
        """Return the rights between this node itself and a member."""


class CompiledPolicy:
    """The rights between this node, or a zone behind it, and any other member.

    A zone is only a destination: members have inbound rights.
    """

    def __init__(
        self, policies: Sequence[PolicyInForce], tag_names: Sequence[str], own: Subject | Zone | None
    ) -> None:
        """Compile policies; without a token of our own (``own`` is None) no member has rights."""
        bits = {name: 1 << index for index, name in enumerate(tag_names) if name}
        self._policies, self._tag_names = policies, tag_names
        self._own = own if isinstance(own, Subject) else None
        self._views = [] if own is None else [_View(policy, own, bits) for policy in policies]
        self._nodes = frozenset[str]().union(*(view.nodes for view in self._views))
        self._owners = frozenset[Address]().union(*(view.owners for view in self._views))
        self._tags = 0
        for view in self._views:
            self._tags |= view.tags
        self.classes: list[GroupRights] = [GroupRights()]
        """All different rights so far. The first one is empty."""
        self._class_of: dict[tuple[str | None, Address, int], RightsClass] = {}
        """By the properties of a member that matter. A tuple is made quicker than a `Subject`."""
        self._numbers: dict[GroupRights, RightsClass] = {GroupRights(): NO_RIGHTS}
        self._reached: dict[tuple[Cidr, ...], bool] = {(): False}
        """By the networks behind a member: True if this node may send to one of them."""

    @property
    def basis(self) -> tuple[AbstractSet[str], AbstractSet[Address], int]:
        """The node ids, the owners and the tags (a bit mask) on which rights depend."""
        return self._nodes, self._owners, self._tags

    def connects(self, subject: Subject) -> bool:
        """See `PolicyConnections.connects`."""
        return self.connected((subject,))[0]

    def connected(self, subjects: Sequence[Subject]) -> list[bool]:
        """See `PolicyConnections.connected`."""
        numbers = self.classes_of(subjects)
        return [
            number != NO_RIGHTS or self.reaches(subject.routes)
            for number, subject in zip(numbers, subjects, strict=True)
        ]

    def rights_with(self, subject: Subject) -> GroupRights:
        """See `PolicyConnections.rights_with`."""
        return self.classes[self.class_of(subject)]

    def class_of(self, subject: Subject) -> RightsClass:
        """Return the rights of a member, as an index of `classes`."""
        (found,) = self.classes_of((subject,))
        return found

    def classes_of(self, subjects: Iterable[Subject]) -> list[RightsClass]:
        """Return the rights of each of these members, as indexes of `classes`."""
        nodes, owners, tags, known = self._nodes, self._owners, self._tags, self._class_of
        keys = [
            (node_id if node_id in nodes else None, owner if owner in owners else "", mask & tags)
            for node_id, owner, mask, _ in subjects
        ]
        for key in set(keys) - known.keys():
            known[key] = self._number_of(self._rights(Subject(*key)))
        return [known[key] for key in keys]

    def translated(self, other: "CompiledPolicy") -> dict[RightsClass, RightsClass] | None:
        """Return for each class of members so far its class in another policy.

        None if that may be more than a translation: members differ in only one of the policies.
        """
        if self.basis != other.basis:
            return None
        found, keys = {NO_RIGHTS: NO_RIGHTS}, self._class_of
        theirs = other.classes_of(Subject(*key) for key in keys)
        for number, translation in zip(keys.values(), theirs, strict=True):
            if found.setdefault(number, translation) != translation:
                return None
        return found if len(set(found.values())) == len(found) else None

    @property
    def reached(self) -> Mapping[tuple[Cidr, ...], bool]:
        """The results of `reaches` so far."""
        return self._reached

    def reaches(self, routes: tuple[Cidr, ...]) -> bool:
        """Return whether this node may send to one of the networks behind a member."""
        found = self._reached.get(routes)
        if found is None:
            found = self._reached[routes] = self._own is not None and any(
                CompiledPolicy(self._policies, self._tag_names, zone).class_of(self._own) != NO_RIGHTS
                for zone in zones(routes, (policy.document for policy in self._policies))
            )
        return found

    def connects_as(self, former: "CompiledPolicy") -> bool:
        """Return True if both connect the same members. False: that must be looked at."""
        return former.translated(self) is not None and all(
            self.reaches(routes) == reached for routes, reached in former.reached.items()
        )

    def _number_of(self, rights: GroupRights) -> RightsClass:
        number = self._numbers.setdefault(rights, len(self.classes))
        if number == len(self.classes):
            self.classes.append(rights)
        return number

    def _rights(self, subject: Subject) -> GroupRights:
        if not self._views:
            return GroupRights()
        inbound = _intersection([_Opened.by(view.inbound(subject)) for view in self._views])
        outbound = _intersection([_Opened.by(view.outbound(subject)) for view in self._views])
        return GroupRights(tuple(inbound.rights()), tuple(outbound.rights()))


@dataclass(slots=True)
class _Index:
    """The grants of one direction, by the selectors of the other party."""

    anyone: list[int] = field(default_factory=list)
    by_tag: dict[int, list[int]] = field(default_factory=dict)
    """By the bit's mask."""
    by_node: dict[str, list[int]] = field(default_factory=dict)
    by_owner: dict[Address, list[int]] = field(default_factory=dict)

    def add(self, number: int, selector: Selector, bits: Mapping[str, int]) -> None:
        """Add a grant for the members that a selector names."""
        match selector.kind:
            case SelectorKind.ANY:
                self.anyone.append(number)
            case SelectorKind.TAG if selector.value in bits:
                self.by_tag.setdefault(bits[selector.value], []).append(number)
            case SelectorKind.NODE:
                self.by_node.setdefault(selector.value, []).append(number)
            case SelectorKind.OWNER:
                self.by_owner.setdefault(selector.value, []).append(number)
            case _:
                return  # a tag without a definition, and selectors that never name a member

    def find(self, subject: Subject) -> set[int]:
        """Return the numbers of the grants for a member."""
        found = {*self.anyone, *self.by_owner.get(subject.owner, ())}
        if subject.node_id is not None:
            found.update(self.by_node.get(subject.node_id, ()))
        for bit, numbers in self.by_tag.items():
            if subject.tags & bit:
                found.update(numbers)
        return found


class _View:
    """One policy from the view of this node, or of a zone behind it."""

    def __init__(self, policy: PolicyInForce, own: Subject | Zone, bits: Mapping[str, int]) -> None:
        self._id, self._grants, self._own = policy.id, policy.document.grants, own
        self._owner = own.owner if isinstance(own, Subject) else None
        self._from, self._from_own_owner, self._to = _Index(), _Index(), _Index()
        for number, grant in enumerate(self._grants, 1):
            self._add(number, grant, bits)
        indexes = (self._from, self._from_own_owner, self._to)
        self.nodes = frozenset(node_id for index in indexes for node_id in index.by_node)
        """The node ids on which rights depend."""
        self.owners = frozenset(owner for index in indexes for owner in index.by_owner)
        if self._owner is not None:
            self.owners |= {self._owner}
        self.tags = sum({bit for index in indexes for bit in index.by_tag})

    def inbound(self, subject: Subject) -> Iterator[tuple[GrantId, Ports]]:
        """Yield the grants from a member to this node, in their order."""
        found = self._from.find(subject)
        if subject.owner == self._owner:
            found |= self._from_own_owner.find(subject)
        return self._ports(found)

    def outbound(self, subject: Subject) -> Iterator[tuple[GrantId, Ports]]:
        """Yield the grants from this node to a member, in their order."""
        return self._ports(self._to.find(subject))

    def _add(self, number: int, grant: Grant, bits: Mapping[str, int]) -> None:
        if any(_names(selector, self._own, bits) for selector in grant.dst):
            for selector in grant.src:
                self._from.add(number, selector, bits)
        elif any(selector.kind is SelectorKind.SELF for selector in grant.dst):
            for selector in grant.src:
                self._from_own_owner.add(number, selector, bits)
        if self._owner is not None and any(_names(selector, self._own, bits) for selector in grant.src):
            for selector in grant.dst:
                if selector.kind is SelectorKind.SELF:
                    selector = Selector(SelectorKind.OWNER, self._owner)  # noqa: PLW2901 - the same members
                self._to.add(number, selector, bits)

    def _ports(self, numbers: Iterable[int]) -> Iterator[tuple[GrantId, Ports]]:
        for number in sorted(numbers):
            for ports in self._grants[number - 1].ip:
                yield GrantId(self._id, number), ports


def _names(selector: Selector, party: Subject | Zone, bits: Mapping[str, int]) -> bool:
    if isinstance(party, Zone):
        return selector in party.selectors
    match selector.kind:
        case SelectorKind.ANY:
            return True
        case SelectorKind.TAG:
            return bool(party.tags & bits.get(selector.value, 0))
        case SelectorKind.NODE:
            return selector.value == party.node_id
        case SelectorKind.OWNER:
            return selector.value == party.owner
        case _:
            return False


@dataclass(slots=True)
class _Opened:
    """The ports that are open in one direction; each belongs to the first grant that opens it."""

    ranges: dict[Protocol, list[_Range]]
    """In ascending order, without overlap."""
    everything: GrantId | None = None
    """The first grant that opens every protocol. It opens also what `ranges` leaves out."""

    @classmethod
    def by(cls, opened: Iterable[tuple[GrantId, Ports]]) -> "_Opened":
        """Return the ports that these grants open, in the order of their precedence."""
        found: dict[Protocol, list[_Range]] = {protocol: [] for protocol in _TRANSPORTS}
        for grant, ports in opened:
            if ports.protocol is None:
                return cls(_sorted(found), grant)  # later grants open nothing more
            found[ports.protocol].append((ports.first, ports.last, grant))
        return cls(_sorted(found))

    def rights(self) -> Iterator[PortRight]:
        """Yield the rights; the one for every protocol comes last."""
        for protocol, ranges in self.ranges.items():
            for first, last, grant in ranges:
                if grant != self.everything:
                    yield PortRight(protocol, first, last, grant)
        if self.everything is not None:
            yield PortRight(None, 0, 65535, self.everything)


def _sorted(found: Mapping[Protocol, Sequence[_Range]]) -> dict[Protocol, list[_Range]]:
    return {protocol: _disjoint(ranges) for protocol, ranges in found.items()}


def _disjoint(ranges: Iterable[_Range]) -> list[_Range]:
    """Return ranges without overlap, in ascending order: earlier ones keep their ports."""
    found: list[_Range] = []
    for first, last, grant in ranges:
        at = bisect_left(found, first, key=lambda each: each[1])  # the first that ends at or after
        free, start = [], first
        end = at
        while end < len(found) and found[end][0] <= last:
            if start < found[end][0]:
                free.append((start, found[end][0] - 1, grant))
            free.append(found[end])
            start = found[end][1] + 1
            end += 1
        if start <= last:
            free.append((start, last, grant))
        found[at:end] = free
    return _joined(found)


def _joined(ranges: Iterable[_Range]) -> list[_Range]:
    found: list[_Range] = []
    for first, last, grant in ranges:
        if found and found[-1][1] + 1 == first and found[-1][2] == grant:
            found[-1] = (found[-1][0], last, grant)
        else:
            found.append((first, last, grant))
    return found


def _intersection(opened: Sequence[_Opened]) -> _Opened:
    """Return the ports that are open in all of these, with the grants of the first."""
    first, *others = opened
    for other in others:
        ranges = {protocol: _common(first, other, protocol) for protocol in _TRANSPORTS}
        both = first.everything if other.everything is not None else None
        first = _Opened(ranges, both)
    return first


def _common(one: _Opened, other: _Opened, protocol: Protocol) -> list[_Range]:
    mine = _filled(one, protocol)
    theirs = _filled(other, protocol)
    found = [
        (max(first, low), min(last, high), grant)
        for first, last, grant in mine
        for low, high, _ in theirs
        if max(first, low) <= min(last, high)
    ]
    return _joined(sorted(found, key=lambda each: each[:2]))


def _filled(opened: _Opened, protocol: Protocol) -> list[_Range]:
    """Return a protocol's ranges, with those that the grant of every protocol fills."""
    ranges = opened.ranges[protocol]
    if opened.everything is None:
        return ranges
    return _disjoint([*ranges, (0, 65535, opened.everything)])
