"""The rights to what this node forwards to: its plain clients, and the networks behind it.

A client enforces no policy. Therefore its gateway enforces what may reach it, as the client would.
Clients that the policies do not distinguish share a view, so the number of views depends on the
policies, and not on the number of clients. Networks are likewise in zones.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

from dstack_vpn.core.model import Cidr
from dstack_vpn.core.policy.compiler import CompiledPolicy, PolicyConnections, PolicyInForce, Subject
from dstack_vpn.core.policy.networks import Zone, zones
from dstack_vpn.core.policy.rule_table import Member, RuleTable
from dstack_vpn.core.policy.rules import GroupRights, PolicyRules, ViewName
from dstack_vpn.core.policy.selectors import Selector, SelectorKind


@dataclass(frozen=True, slots=True)
class ConnectedViews:
    """The members that the policies connect with this node, or with a client or network of it."""

    own: CompiledPolicy
    clients: tuple[CompiledPolicy, ...] = ()
    networks: tuple[CompiledPolicy, ...] = ()

    def connects(self, subject: Subject) -> bool:
        """See `PolicyConnections.connects`."""
        return any(view.connects(subject) for view in (self.own, *self.clients, *self.networks))

    def connected(self, subjects: Sequence[Subject]) -> list[bool]:
        """See `PolicyConnections.connected`."""
        views = [view.connected(subjects) for view in (self.own, *self.clients, *self.networks)]
        return [any(connected) for connected in zip(*views, strict=True)]

    def connects_as(self, former: PolicyConnections | None) -> bool:
        """Return True if both connect the same members. False: that must be looked at."""
        return (
            isinstance(former, ConnectedViews)
            and not (self.clients or self.networks or former.clients or former.networks)
            and self.own.connects_as(former.own)
        )

    def rights_with(self, subject: Subject) -> GroupRights:
        """See `PolicyConnections.rights_with`."""
        return self.own.rights_with(subject)


class Distinction:
    """The properties of a member on which its view of the policies depends."""

    def __init__(self, policies: Sequence[PolicyInForce], tag_names: Sequence[str]) -> None:
        self._policies, self._tag_names = policies, tag_names
        named = {
            selector
            for policy in policies
            for grant in policy.document.grants
            for selector in (*grant.src, *grant.dst)
        }
        self._nodes = _values(named, SelectorKind.NODE)
        self._owners = _values(named, SelectorKind.OWNER)
        self._by_owner = any(selector.kind is SelectorKind.SELF for selector in named)
        tags = _values(named, SelectorKind.TAG)
        self._tags = sum(1 << index for index, name in enumerate(tag_names) if name in tags)

    def of(self, subject: Subject) -> Subject:
        """Return a subject that is equal for all members with the same view."""
        return Subject(
            subject.node_id if subject.node_id in self._nodes else None,
            subject.owner if self._by_owner or subject.owner in self._owners else "",
            subject.tags & self._tags,
        )

    def view(self, subject: Subject) -> CompiledPolicy:
        """Return the policies from the view of a member."""
        return CompiledPolicy(self._policies, self._tag_names, self.of(subject))


def _values(selectors: Iterable[Selector], kind: SelectorKind) -> frozenset[str]:
    return frozenset(selector.value for selector in selectors if selector.kind is kind)


@dataclass(slots=True)
class _View:
    """The rules for clients that the policies do not distinguish."""

    name: ViewName
    table: RuleTable
    clients: set[Member] = field(default_factory=set)

    def serve(self) -> None:
        """Let the rules be about the clients."""
        self.table.serve(frozenset(chain.from_iterable(self.clients)))


@dataclass(slots=True)
class ForwardedTable:
    """The rules for the clients that this node forwards for, under the policies in force."""

    distinction: Distinction
    _views: dict[Subject, _View] = field(default_factory=dict, init=False)
    """The views; none is without a client."""
    _view_of: dict[Member, Subject] = field(default_factory=dict, init=False)
    _made: int = field(default=0, init=False)
    """The number of views so far. The name of a view is never used for another one."""

    @property
    def rules(self) -> dict[ViewName, PolicyRules]:
        """The rules of each view: the same objects until something changes."""
        return {view.name: view.table.rules for view in self._views.values()}

    @property
    def compiled(self) -> tuple[CompiledPolicy, ...]:
        """The policies from each view."""
        return tuple(view.table.compiled for view in self._views.values())

    def put(self, member: Member, subject: Subject | None) -> bool:
        """Set the member that has these addresses; returns whether that changes a rule."""
        changed = False
        for view in self._views.values():
            changed |= view.table.put(member, subject)
        return changed

    def forward(self, client: Member, subject: Subject | None, members: RuleTable) -> None:
        """Forward for the client with these addresses; None ends that.

        ``members`` has all members.
        """
        key = None if subject is None else self.distinction.of(subject)
        before = self._view_of.get(client)
        if before == key:
            return
        if before is not None:
            del self._view_of[client]
            self._leave(before, client)
        if key is not None:
            self._add(key, client, members).serve()

    def replace(
        self, distinction: Distinction, clients: Mapping[Member, Subject], members: RuleTable
    ) -> None:
        """Change to other policies.

        A view keeps its name if its first client stays in it. Few of its rules then change.
        """
        views, view_of = self._views, self._view_of
        self.distinction, self._views, self._view_of = distinction, {}, {}
        for client, subject in clients.items():
            key, before = distinction.of(subject), view_of.get(client)
            if key not in self._views and before in views:
                kept = views.pop(before)
                kept.table.replace(distinction.view(key), frozenset())
                self._views[key] = _View(kept.name, kept.table)
            self._add(key, client, members)
        for view in self._views.values():
            view.serve()

    def _add(self, key: Subject, client: Member, members: RuleTable) -> _View:
        """Add a client to a view, and return it."""
        view = self._views.get(key)
        if view is None:
            name = f"v{self._made}"
            self._made += 1
            view = self._views[key] = _View(name, members.copy(self.distinction.view(key), f"{name}m"))
        view.clients.add(client)
        self._view_of[client] = key
        return view

    def _leave(self, key: Subject, client: Member) -> None:
        view = self._views[key]
        view.clients.remove(client)
        view.serve()
        if not view.clients:
            del self._views[key]


@dataclass(slots=True)
class NetworkTable:
    """The rules for the networks that this node forwards to, under the policies in force."""

    _zones: tuple[Zone, ...] = field(default=(), init=False)
    _tables: dict[ViewName, RuleTable] = field(default_factory=dict, init=False)
    """By the zones' names, in their order."""
    _made: int = field(default=0, init=False)
    """The number of names so far. A name is never used for other destinations."""

    @property
    def rules(self) -> dict[ViewName, PolicyRules]:
        """The rules of each zone: the same objects until something changes."""
        return {name: table.rules for name, table in self._tables.items()}

    @property
    def compiled(self) -> tuple[CompiledPolicy, ...]:
        """The policies from each zone."""
        return tuple(table.compiled for table in self._tables.values())

    def put(self, member: Member, subject: Subject | None) -> bool:
        """Set the member that has these addresses; returns whether that changes a rule."""
        changed = False
        for table in self._tables.values():
            changed |= table.put(member, subject)
        return changed

    def clear(self) -> None:
        """Remove all zones: no policy restricts anything."""
        self._zones, self._tables = (), {}

    def replace(
        self,
        policies: Sequence[PolicyInForce],
        tag_names: Sequence[str],
        routes: Iterable[Cidr],
        members: RuleTable,
    ) -> None:
        """Change to other policies or routes; ``members`` has all members.

        While the zones have the same networks, they keep their names.
        """
        found = zones(routes, (policy.document for policy in policies))
        kept = [zone.networks for zone in found] == [zone.networks for zone in self._zones]
        self._zones = found
        if kept:
            for zone, table in zip(found, self._tables.values(), strict=True):
                table.replace(CompiledPolicy(policies, tag_names, zone), zone.networks)
            return
        self._tables = {}
        for zone in found:
            name = f"n{self._made}"
            self._made += 1
            table = self._tables[name] = members.copy(CompiledPolicy(policies, tag_names, zone), f"{name}m")
            table.serve(zone.networks)
