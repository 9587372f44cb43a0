"""The policies in force on this node, as access control and the packet filter need them.

The module is synchronous, like `Members`, which owns it. The packet filter reads `rules` after
`changed` is set.
"""

import asyncio
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Final, TypeAlias

from dstack_vpn.core.access.addressing import AddressPlan
from dstack_vpn.core.access.contract_quorum import Rules
from dstack_vpn.core.access.control import AccessControl
from dstack_vpn.core.chain.node import Node
from dstack_vpn.core.model import Cidr
from dstack_vpn.core.observe.events import PolicyInUse, PolicyRefused, RouteRefused
from dstack_vpn.core.observe.reports import PolicyReport
from dstack_vpn.core.policy.compiler import CompiledPolicy, PolicyConnections, Subject
from dstack_vpn.core.policy.document import PolicyDocument
from dstack_vpn.core.policy.forwarding import ConnectedViews, Distinction, ForwardedTable, NetworkTable
from dstack_vpn.core.policy.members import members_of_tests
from dstack_vpn.core.policy.networks import OwnNetworks
from dstack_vpn.core.policy.rule_table import Member, RuleTable
from dstack_vpn.core.policy.rules import PolicyRules, ViewName
from dstack_vpn.core.policy.selection import GoodPolicy, PolicySelection
from dstack_vpn.ports import Clock, Publish

Present: TypeAlias = Iterable[tuple[tuple[str, ...], Node]]

PATIENCE: Final = 5.0
"""Seconds until a warning is reported: the text of a new policy is read within milliseconds."""


@dataclass(slots=True)
class Policies:
    """The policies in force and the rules of this node under them."""

    addresses: AddressPlan
    selection: PolicySelection
    clock: Clock
    publish: Publish
    has_exit: bool
    """EXIT_NODE is set."""
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when `rules` has changed, until the packet filter takes it."""
    known: bool = field(default=False, init=False)
    """True as soon as it is known whether there is a policy."""
    compiled: PolicyConnections | None = field(default=None, init=False)
    """None: no policy restricts anything."""
    networks: OwnNetworks | None = field(default=None, init=False)
    """The networks that this node forwards to; None while it never had one."""
    _clients: dict[Member, Subject] = field(default_factory=dict, init=False)
    """The plain clients that this node forwards for."""
    _forwarded: ForwardedTable | None = field(default=None, init=False)
    _behind: NetworkTable = field(default_factory=NetworkTable, init=False)
    _composed: PolicyRules | None = field(default=None, init=False)
    """The rules as they were returned last."""
    _seen: float | None = field(default=None, init=False)
    """The arrival of the first change that the packet filter has not taken (monotonic seconds)."""
    _table: RuleTable | None = field(default=None, init=False)
    _offered: object = field(default=None, init=False)
    """The policies of the last choice: those of the registry, and that of the file."""
    _compiled_from: object = field(default=None, init=False)
    _warning: str | None = field(default=None, init=False)
    _warned_at: float = field(default=-PATIENCE, init=False)
    """The time since when there is that warning (monotonic seconds)."""
    _refused: str | None = field(default=None, init=False)
    """The refusal that was published last."""

    @property
    def rules(self) -> PolicyRules | None:
        """The rules for the packet filter; None: no policy restricts anything."""
        if self._table is None or self._forwarded is None:
            return None
        own, views, networks = self._table.rules, self._forwarded.rules, self._behind.rules
        last = self._composed
        if (
            last is None
            or last.members is not own.members
            or not (_are_same(last.views, views) and _are_same(last.networks, networks))
        ):
            last = self._composed = replace(own, views=views, networks=networks)
        return last

    @property
    def is_idle(self) -> bool:
        """True if no policy restricts anything, and this node forwards for no client."""
        return self.compiled is None and not self._clients

    @property
    def forwarded(self) -> frozenset[str]:
        """The addresses that this node forwards for."""
        return frozenset(chain.from_iterable(self._clients))

    @property
    def good(self) -> GoodPolicy | None:
        """The last good policy of the registry."""
        return self.selection.good

    def reaches(self, network: Cidr) -> bool:
        """Return whether the policies let this node send to a part of a network.

        A network of prefix length 0 stands for the internet.
        """
        return self._table is None or self._table.compiled.reaches((network,))

    def report(self) -> PolicyReport:
        """Report for health."""
        in_force = self.selection.in_force
        is_new = self.clock.monotonic() - self._warned_at < PATIENCE
        return PolicyReport(
            in_force=None if in_force is None else tuple(each.id for each in in_force),
            refused=self.selection.refused,
            warning=None if is_new else self.selection.warning,
        )

    # -- inputs ------------------------------------------------------------------------------------

    def use_file(self, document: PolicyDocument) -> None:
        """Use another policy of POLICY_FILE, from the next `follow` on."""
        self.selection.use_file(document)
        self._offered = None

    def follow(
        self, access: AccessControl, rules: Rules, own: Node | None, present: Present, seen: float
    ) -> None:
        """Choose and compile again if anything has changed.

        ``access`` is over the newest registry. ``present`` are the peers' tokens, each with its
        addresses.
        """
        contract = access.registry.contract
        offered = rules.policies if contract.is_read else None
        self.known = True
        if (offered, self.selection.file) != self._offered or self.selection.waits_for_members:
            self._offered = offered, self.selection.file
            without = replace(access, policy=None)
            now = self.clock.now()
            self.selection.choose(offered, lambda document: members_of_tests(without, document, now))
            self._note_problems()
        subject = None if own is None else access.subject(own)
        self._follow_networks(() if subject is None else subject.routes, seen)
        basis = self.selection.in_force, rules.tag_names, subject, None if own is None else own.token_id
        if basis != self._compiled_from:
            self._compiled_from = basis
            found = ((addresses, access.subject(node)) for addresses, node in present)
            self._compile(rules.tag_names, subject, own, found, seen)

    def put(self, addresses: Collection[str], subject: Subject, seen: float, *, forwarded: bool) -> None:
        """Set the properties of a peer's token; ``forwarded``: it is a client of this node."""
        member = tuple(sorted(addresses))
        self._put(member, subject, seen)
        self._forward(member, subject if forwarded else None, seen)

    def drop(self, addresses: Iterable[Cidr], seen: float) -> None:
        """Remove the rights of a former peer's addresses."""
        for token in self.addresses.tokens_at(addresses):
            member = tuple(sorted(self.addresses.texts_of(token)))
            self._put(member, None, seen)
            self._forward(member, None, seen)

    def take(self) -> tuple[PolicyRules | None, float | None]:
        """Return the rules for the packet filter, and the arrival of the first new change."""
        self.changed.clear()
        seen, self._seen = self._seen, None
        return self.rules, seen

    # -- helpers -----------------------------------------------------------------------------------

    def _put(self, member: Member, subject: Subject | None, seen: float) -> None:
        if self._table is None or self._forwarded is None:
            return
        changed = [each.put(member, subject) for each in (self._table, self._forwarded, self._behind)]
        if any(changed):
            self._note(seen)

    def _follow_networks(self, routes: Sequence[Cidr], seen: float) -> None:
        """Take other routes of our own token."""
        found = OwnNetworks.of(routes, self.addresses.networks, has_exit=self.has_exit)
        if found != (self.networks or OwnNetworks()):
            for refused in sorted({*found.refused} - {*(self.networks or OwnNetworks()).refused}):
                self.publish(RouteRefused(refused))
            self.networks = found
            self._note(seen)

    def _forward(self, client: Member, subject: Subject | None, seen: float) -> None:
        """Forward for the client with these addresses; None ends that."""
        if self._clients.get(client) == subject:
            return
        if subject is None:
            del self._clients[client]
        else:
            self._clients[client] = subject
        if self._table is not None and self._forwarded is not None:
            self._forwarded.forward(client, subject, self._table)
            self._connect()
        self._note(seen)

    def _connect(self) -> None:
        """Note the members that the views connect with this node, if the views have changed."""
        assert self._table is not None and self._forwarded is not None
        found = ConnectedViews(self._table.compiled, self._forwarded.compiled, self._behind.compiled)
        if found != self.compiled:
            self.compiled = found

    def _compile(
        self,
        tag_names: tuple[str, ...],
        subject: Subject | None,
        own: Node | None,
        present: Iterator[tuple[tuple[str, ...], Subject]],
        seen: float,
    ) -> None:
        in_force = self.selection.in_force
        if in_force is None:
            if self._table is not None:
                self.compiled = self._table = self._forwarded = self._composed = None
                self._behind.clear()
                self.publish(PolicyInUse(None, 0))
                self._note(seen)
            return
        ours = frozenset[str]() if own is None else frozenset(self.addresses.texts_of(own.token_id))
        compiled = CompiledPolicy(in_force, tag_names, subject)
        if self._table is None:
            self._table = RuleTable(compiled, ours)
            for addresses, each in present:
                self._table.put(addresses, each)
        else:
            self._table.replace(compiled, ours)
        distinction = Distinction(in_force, tag_names)
        self._forwarded = self._forwarded or ForwardedTable(distinction)
        self._forwarded.replace(distinction, self._clients, self._table)
        routes = () if self.networks is None else self.networks.usable
        self._behind.replace(in_force, tag_names, routes, self._table)
        self._connect()
        grants = sum(len(each.document.grants) for each in in_force)
        self.publish(PolicyInUse(", ".join(each.id for each in in_force) or "closed", grants))
        self._note(seen)

    def _note(self, seen: float) -> None:
        if self._seen is None:
            self._seen = seen
        self.changed.set()

    def _note_problems(self) -> None:
        refused = self.selection.refused
        if refused is not None and refused != self._refused:
            self.publish(PolicyRefused(refused))
        self._refused = refused
        if self.selection.warning != self._warning:
            self._warning, self._warned_at = self.selection.warning, self.clock.monotonic()


def _are_same(one: Mapping[ViewName, PolicyRules], other: Mapping[ViewName, PolicyRules]) -> bool:
    return one.keys() == other.keys() and all(one[name] is other[name] for name in one)
