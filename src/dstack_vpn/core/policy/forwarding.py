"""The rights of the plain clients that this node forwards for, from the view of each of them.

A client enforces no policy. Therefore its gateway enforces what may reach it, as the client would.
Clients that the policies do not distinguish share a view, so the number of views depends on the
policies, and not on the number of clients.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from dstack_vpn.core.policy.compiler import CompiledPolicy, PolicyInForce, Subject
from dstack_vpn.core.policy.rule_table import RuleTable
from dstack_vpn.core.policy.rules import PolicyRules, ViewName
from dstack_vpn.core.policy.selectors import Selector, SelectorKind


@dataclass(frozen=True, slots=True)
class ConnectedViews:
    """The members that the policies connect with this node, or with a client of it."""

    own: CompiledPolicy
    clients: tuple[CompiledPolicy, ...] = ()

    def connects(self, subject: Subject) -> bool:
        """See `PolicyConnections.connects`."""
        return self.own.connects(subject) or any(view.connects(subject) for view in self.clients)


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
class ForwardedTable:
    """The rules for the addresses that this node forwards for, under the policies in force."""

    distinction: Distinction
    first: int = 0
    """The number of the first view. The name of a view is never used for another one."""
    _views: dict[Subject, tuple[ViewName, RuleTable]] = field(default_factory=dict, init=False)
    _views_of: dict[str, Subject] = field(default_factory=dict, init=False)
    """The view of each address."""

    @property
    def rules(self) -> dict[ViewName, PolicyRules]:
        """The rules of each view: the same objects until something changes."""
        return {name: table.rules for name, table in self._views.values()}

    @property
    def compiled(self) -> tuple[CompiledPolicy, ...]:
        """The policies from each view."""
        return tuple(table.compiled for _, table in self._views.values())

    def put(self, addresses: Iterable[str], subject: Subject | None) -> bool:
        """Set the member that has these addresses; returns whether that changes a rule."""
        found, changed = list(addresses), False
        for _, table in self._views.values():
            changed |= table.put(found, subject)
        return changed

    def forward(
        self, addresses: Iterable[str], subject: Subject | None, members: Mapping[str, Subject]
    ) -> bool:
        """Forward for the client with these addresses; None ends that.

        ``members`` are all members by address. Returns whether that changes a rule.
        """
        view, changed = None if subject is None else self.distinction.of(subject), False
        for address in addresses:
            before = self._views_of.get(address)
            if before == view:
                continue
            changed = True
            if before is not None:
                del self._views_of[address]
                self._leave(before, address)
            if view is not None:
                self._views_of[address] = view
                _, table = self._views.get(view) or self._new(view, members)
                table.serve(table.own | {address})
        return changed

    def _new(self, view: Subject, members: Mapping[str, Subject]) -> tuple[ViewName, RuleTable]:
        name = f"v{self.first}"
        self.first += 1
        table = RuleTable(self.distinction.view(view), frozenset(), f"{name}m")
        for address, subject in members.items():
            table.put([address], subject)
        self._views[view] = name, table
        return name, table

    def _leave(self, view: Subject, address: str) -> None:
        _, table = self._views[view]
        table.serve(table.own - {address})
        if not table.own:
            del self._views[view]
