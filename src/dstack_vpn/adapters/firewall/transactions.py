"""The transactions between two tables of the packet filter.

A packet that the kernel is processing while a transaction ends is judged by the old rules, but by
the new elements of the maps and sets in these rules. Therefore, a change can need several
transactions: no packet is lost that both tables allow, and none passes that neither allows.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

from dstack_vpn.adapters.firewall.table import (
    CLIENTS,
    FORWARDED,
    MEMBERS,
    NOBODY,
    Chain,
    Lead,
    Leads,
    Table,
    changes,
)
from dstack_vpn.core.policy.rules import Addresses

_BASE: Final = "prerouting_policy"
"""The chain without which there is no policy."""


@dataclass(frozen=True, slots=True)
class Transactions:
    """The transactions from one table to another, as commands."""

    changes: tuple[str, ...]
    """After these, every packet is judged by the new table."""
    cleanup: str
    """Removes the parts to which nothing leads any more; may be empty."""

    @property
    def all(self) -> tuple[str, ...]:
        """Return all transactions, in order."""
        return (*self.changes, self.cleanup) if self.cleanup else self.changes


def transactions(old: Table, new: Table) -> Transactions:
    """Return the transactions that lead from a table to another one with the same name.

    A change of members is one transaction. Equal tables need none.
    """
    steps = [old, *_between(old, new)]
    found = tuple(commands for before, after in pairwise(steps) if (commands := changes(before, after)))
    return Transactions(found, changes(steps[-1], new))


def _between(old: Table, new: Table) -> list[Table]:
    """Return the tables between.

    The first one has the new chains and maps, to which nothing leads yet. In the last one, nothing
    leads to the old ones any more. Clients change before members, and the rules that all packets
    pass come at last.
    """
    if not old.leads or _BASE not in old.chains:
        every = old.with_leads(_all_clients(old, new))
        return [every, _switched(every, new)]
    if _BASE not in new.chains:
        served = {FORWARDED: new.leads[FORWARDED]} if FORWARDED in new.leads else {}
        return [_switched(old, new).with_leads(served)]
    second, come, known = _second_views(old, new), _coming(old, new), old.names()
    chains = {**new.chains, **old.chains, **second.chains}
    chains |= {f"{lead.chain}_": new.chains[lead.chain] for lead in come}
    fresh = {lead: each for lead, each in new.leads.items() if lead.names[0] not in known}
    leads = {**old.leads, **fresh, **second.leads}
    made = Table(new.name, chains, {**old.parts, **new.parts, **second.parts}, leads)
    clients = _with_clients(made, old, new, second)
    moved, led = _with_members(clients[-1], old, new, come)
    back = led.with_leads({lead: new.leads.get(lead, NOBODY) for lead in led.leads if lead.name == CLIENTS})
    return [made, *clients, moved, led, back, _switched(back, new)]


def _switched(before: Table, new: Table) -> Table:
    """Return the table with all chains of the new one, and what nothing leads to any more.

    A map or set that is removed has no elements for the packets that meet the rules before.
    """
    known = before.names()
    chains = {name: each for name, each in before.chains.items() if not each.hook}
    fresh = {lead: each for lead, each in new.leads.items() if lead.names[0] not in known}
    parts = {**before.parts, **new.parts}
    return Table(new.name, {**chains, **new.chains}, parts, {**fresh, **before.leads})


def _second_views(old: Table, new: Table) -> Table:
    """Return second views, for those to which clients come while the members or rights change.

    The clients that come would have the old members, or those of another view the new ones.
    Therefore, all clients of the view are in a second one meanwhile, which is as the new one.
    """
    chains, parts, leads = dict[str, Chain](), dict[str, str](), dict[Lead, Addresses]()
    for view, clients in new.leads.items():
        if view.name != CLIENTS or view not in old.leads or not any(_less(clients, old.leads[view])):
            continue
        name = MEMBERS + view.chain.removeprefix("view")
        after = _of_map(new, name)
        if after == _of_map(old, name) and not any(lead.name == name for lead in _changed(old, new)):
            continue
        rules = (f"{rule}_" if "vmap" in rule else rule for rule in new.chains[view.chain].rules)
        chains[f"{view.chain}_"] = Chain("", tuple(rules))
        chains |= {f"{lead.chain}_": new.chains[lead.chain] for lead in after}
        parts |= {f"map {each}_": new.parts[f"map {each}"] for each in Lead(name, "").names}
        leads |= {Lead(f"{name}_", f"{lead.chain}_"): each for lead, each in after.items()}
    return Table(new.name, chains, parts, leads)


def _of_map(table: Table, name: str) -> Leads:
    return {lead: each for lead, each in table.leads.items() if lead.name == name}


def _all_clients(old: Table, new: Table) -> Leads:
    """Return the clients of both tables, if both have some.

    Two rules look up a client, as the source and as the destination. A packet between one that
    leaves and one that comes could be lost in one step.
    """
    both = [table.leads[FORWARDED] for table in (old, new) if FORWARDED in table.leads]
    return {FORWARDED: _united(both)} if len(both) > 1 else {}


def _with_clients(made: Table, old: Table, new: Table, second: Table) -> list[Table]:
    """Return the tables with the new clients.

    A packet is judged by the view of its destination, and if that is not a client, by whether its
    source is one. Therefore, clients that come or move have their new view first. Then the set of
    clients changes, and at last those that leave have no view.
    """
    views = dict[Lead, Addresses]()
    for view in (lead for lead in {**old.leads, **new.leads} if lead.name == CLIENTS):
        copy = Lead(CLIENTS, f"{view.chain}_")
        views[view] = NOBODY
        views[copy if copy.chain in second.chains else view] = new.leads.get(view, NOBODY)
    served = _united(views.values())
    leaving = {view: _less(old.leads.get(view, NOBODY), served) for view in views}
    joined = made.with_leads({view: _united((each, leaving[view])) for view, each in views.items()})
    every = joined.with_leads(_all_clients(old, new))
    now = every.with_leads({FORWARDED: new.leads.get(FORWARDED, NOBODY)}) if views else every
    return [joined, every, now, now.with_leads(views)]


def _united(addresses: Iterable[Addresses]) -> Addresses:
    listed = list(addresses)
    return Addresses(*(frozenset[str]().union(*(each[version] for each in listed)) for version in (0, 1)))


def _coming(old: Table, new: Table) -> dict[Lead, Addresses]:
    """Return the members that come to a group that gets other rights.

    In one step, the old members would have the new rights, or the new ones the old rights.
    Therefore, those that come are in a second group meanwhile, which has the new rights.
    """
    changed = _changed(old, new)
    return {lead: found for lead in changed if any(found := _less(new.leads[lead], old.leads[lead]))}


def _changed(old: Table, new: Table) -> list[Lead]:
    """Return the groups that get other rights."""
    groups = (lead for lead in new.leads if lead.name.startswith(MEMBERS) and lead in old.leads)
    return [lead for lead in groups if old.chains[lead.chain] != new.chains[lead.chain]]


def _with_members(table: Table, old: Table, new: Table, come: Leads) -> tuple[Table, Table]:
    """Return the tables with the new members, and after that with all new rights."""
    known, changed = new.names(), _changed(old, new)
    leads = {
        lead: each
        for lead, each in table.leads.items()
        if not lead.name.startswith(MEMBERS) or lead.names[0] not in known
    }
    leads |= {lead: each for lead, each in new.leads.items() if lead.name.startswith(MEMBERS)}
    for lead, each in come.items():
        leads |= {Lead(lead.name, f"{lead.chain}_"): each, lead: _less(new.leads[lead], each)}
    alone = {lead.chain: new.chains[lead.chain] for lead in changed if old.leads[lead] == new.leads[lead]}
    moved = replace(table, chains={**table.chains, **alone}, leads=leads)
    every = {lead.chain: new.chains[lead.chain] for lead in changed}
    return moved, replace(moved, chains={**table.chains, **every})


def _less(addresses: Addresses, others: Addresses) -> Addresses:
    if addresses is others:
        return NOBODY
    return Addresses(addresses.ipv4 - others.ipv4, addresses.ipv6 - others.ipv6)
