"""Health: the evaluation of all parts' reports.

`live` means that the daemon runs, `ready` that the tunnel carries the registry's members, and
`healthy` that no action of an operator is needed. An unreachable chain makes a node unhealthy,
never unready: the tunnels keep the last known members, and a restart would not help.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from dstack_vpn.core.access.staleness import StalePolicy
from dstack_vpn.core.chain.budget import BudgetStage
from dstack_vpn.core.chain.lag import WORTH_A_LOOK
from dstack_vpn.core.observe.reports import (
    BudgetReport,
    ChainReport,
    DeviceReport,
    EarlyReport,
    ExitReport,
    FirewallReport,
    KeyReport,
    MembersReport,
    PolicyReport,
    QuorumReport,
    Reports,
    RoutesReport,
    StorageReport,
)
from dstack_vpn.core.wireguard.key_age import span

CLOCK_TOLERANCE: Final = 30.0
"""Seconds by which a block's time may differ from ours, since sequencers' clocks are not exact."""
DEV_CLOCK_TOLERANCE: Final = 600.0
"""The same on a dev chain: each of its blocks has its own second, so a busy one runs ahead."""
HEAD_PATIENCE: Final = 60.0
"""Seconds without a new head that are a failure, if blocks come at a known pace."""

MOST_NAMED: Final = 10
"""Tokens that a reason names."""


class Status(StrEnum):
    """The status of a component."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Component:
    """A part of the system: its status, the reason, and the time of the change (Unix seconds)."""

    name: str
    status: Status
    reason: str = ""
    since: float | None = None


@dataclass(frozen=True, slots=True)
class Health:
    """The result of the evaluation."""

    ready: bool
    components: tuple[Component, ...] = field(default_factory=tuple)

    @property
    def healthy(self) -> bool:
        """Return whether no component has failed."""
        return all(component.status is not Status.FAILED for component in self.components)

    @property
    def status(self) -> Status:
        """Return the worst status of the components."""
        order = list(Status)
        return max((c.status for c in self.components), key=order.index, default=Status.OK)


def evaluate(reports: Reports, now: float) -> Health:
    """Evaluate the reports at ``now`` (Unix seconds)."""
    members, device = reports.members, reports.device
    known = members.known and not members.isolated
    ready = device.up and device.problem is None and known
    components = [
        _chain(reports.chain, reports.started, now),
        _registry(members, device.held),
        _device(device),
        _own(members),
        *_refusals("clients", "not on the network with this node as gateway", members.refused_clients),
        *_refusals("networks", "this node does not forward to its routes", members.refused_routes),
        _store(reports.storage),
        *([] if reports.budget is None else [_budget(reports.budget)]),
        *([] if reports.early is None else [_early(reports.early)]),
    ]
    if reports.quorum is not None:
        components.append(_quorum(reports.quorum))
    if reports.chain.clock_problem is not None:
        components.append(Component("clock", Status.WARNING, reports.chain.clock_problem))
    if reports.key is not None:
        components.append(_key(reports.key))
    if reports.relays:
        components.append(_relays(reports.relays))
    if reports.policy is not None:
        components.append(_policy(reports.policy))
    if reports.exit is not None:
        components.append(_exit(reports.exit))
    if reports.routes is not None:
        components.append(_routes(reports.routes))
    if reports.gateway is not None:
        components.append(Component("gateway", Status.FAILED, reports.gateway))
    if reports.firewall is not None:
        components.append(_firewall(reports.firewall))
    components += [
        Component(name, Status.OK if problem is None else Status.FAILED, problem or "")
        for name, problem in reports.parts.items()
    ]
    return Health(ready, tuple(components))


def clock_problem(lag: float, *, paced: bool) -> str | None:
    """Return the problem of our clock, or None.

    ``lag`` is the seconds from a head's block time to its arrival. If blocks are not ``paced``,
    because they are made only for transactions, an old one is not a problem.
    """
    advice = "correct the time (NTP): access that expires is judged by it"
    if lag < -(CLOCK_TOLERANCE if paced else DEV_CLOCK_TOLERANCE):
        return f"this machine's clock is {-lag:.0f} s behind the newest block; {advice}"
    if paced and lag > HEAD_PATIENCE + CLOCK_TOLERANCE:
        ahead = f"this machine's clock is {lag:.0f} s ahead of the newest block"
        return f"{ahead}, or the endpoint is late; {advice}"
    return None


def _chain(chain: ChainReport, started: float, now: float) -> Component:
    if chain.problem is not None:
        return Component("chain", Status.FAILED, chain.problem, chain.since)
    age = now - (chain.head_seen or started)
    if chain.paced and age > HEAD_PATIENCE:
        return Component("chain", Status.FAILED, f"no new block for {age:.0f} s", chain.head_seen)
    if chain.behind > WORTH_A_LOOK + chain.head_interval:
        how_far = f"{chain.blocks_behind} blocks and {chain.behind:.0f} s"
        reason = f"{how_far} behind the newest block that an endpoint has shown"
        return Component("chain", Status.FAILED, reason, chain.since)
    return Component("chain", Status.OK, f"following {chain.endpoint}", chain.since)


def _registry(members: MembersReport, held: int) -> Component:
    if held:
        reason = (
            f"{held} removals, more than half of the peers within an hour, wait until a second "
            "reading of the chain confirms them"
        )
        return Component("registry", Status.FAILED, reason)
    if members.too_old is not None:
        reason = f"no members until the chain was read: {members.too_old}"
        return Component("registry", Status.FAILED, reason)
    if members.age is not None and members.age > members.max_staleness / 2:
        return _old(members, members.age)
    if not members.known:
        return Component("registry", Status.FAILED, "not read from the chain yet")
    if members.stale:
        return Component(
            "registry", Status.WARNING, "members are from the state directory, not confirmed yet"
        )
    if members.pinned:
        return Component("registry", Status.WARNING, "pinned by 'config rollback'; 'config resume' ends that")
    return Component("registry", Status.OK)


def _old(members: MembersReport, age: float) -> Component:
    """Warn if the registry has not been confirmed for long; fail after MAX_STALENESS."""
    reason = f"not confirmed by the chain for {age:.0f} s"
    isolates = members.stale_policy is StalePolicy.ISOLATE
    if age > members.max_staleness:
        then = "no peers until it is" if isolates else "the members of then are kept"
        return Component("registry", Status.FAILED, f"{reason}, longer than MAX_STALENESS: {then}")
    then = "no peers are left" if isolates else "that is a failure"
    left = members.max_staleness - age
    return Component("registry", Status.WARNING, f"{reason}; after another {left:.0f} s {then}")


def _device(device: DeviceReport) -> Component:
    if device.problem is not None:
        return Component("device", Status.FAILED, device.problem, device.since)
    if not device.up:
        return Component("device", Status.FAILED, "the interface is gone or down", device.since)
    if device.route_problem is not None:
        return Component("device", Status.FAILED, device.route_problem, device.since)
    reason = "IPv4 only: IPv6 is disabled on this host" if device.without_ipv6 else ""
    return Component("device", Status.OK, reason)


def _own(members: MembersReport) -> Component:
    status = Status.OK if members.own_problem is None else Status.FAILED
    return Component("membership", status, members.own_problem or "")


def _refusals(name: str, meaning: str, refused: Sequence[str]) -> list[Component]:
    """Return a warning if this node can't be a gateway for all that the registry names."""
    if not refused:
        return []
    more = [f"and {len(refused) - MOST_NAMED} more"] if len(refused) > MOST_NAMED else []
    reason = "; ".join((*refused[:MOST_NAMED], *more))
    return [Component(name, Status.WARNING, f"{meaning}: {reason}")]


def _key(key: KeyReport) -> Component:
    """Return a warning at most: an old key works as well as a new one."""
    age = key.age
    if age is None or (age < key.due and not key.failures):
        return Component("key", Status.OK)
    reason = f"our key is {span(age)} old, and KEY_MAX_AGE allows {span(key.longest)}"
    if key.hindrance is not None:
        return Component("key", Status.WARNING, f"{reason}: {key.hindrance}")
    if key.failures:
        tries = f"{key.failures} tries" if key.failures > 1 else "the first try"
        return Component("key", Status.WARNING, f"{reason}; {tries} to change it failed: {key.problem}")
    return Component("key", Status.WARNING if age > key.longest else Status.OK, reason)


def _store(storage: StorageReport) -> Component:
    problem = "; ".join(filter(None, (storage.store, storage.audit)))
    return Component("store", Status.WARNING if problem else Status.OK, problem)


def _quorum(quorum: QuorumReport) -> Component:
    """Fail if endpoints contradict each other or too few agree; warn if one is in quarantine."""
    failures = [
        f"{' and '.join(who)} contradict each other about token {token}, which stays out"
        for token, who in list(quorum.contested.items())[:MOST_NAMED]
    ]
    if quorum.agreeing < quorum.needed:
        failures.append(f"{quorum.agreeing} of the {quorum.needed} endpoints that RPC_QUORUM asks for agree")
    warnings = [f"{name} is in quarantine: {why}" for name, why in quorum.quarantined.items()]
    warnings += [f"{name} does not answer: {why}" for name, why in quorum.silent.items()]
    if quorum.disputed:
        warnings.append(f"tokens {_few(quorum.disputed)} are out according to one endpoint")
    if quorum.waiting:
        warnings.append(f"{quorum.waiting} grants wait until {quorum.needed} endpoints show them")
    reason = "; ".join(failures + warnings)
    if failures:
        return Component("quorum", Status.FAILED, reason)
    return Component("quorum", Status.WARNING if warnings else Status.OK, reason)


def _budget(budget: BudgetReport) -> Component:
    """Return a warning at most: a spent budget stops nothing."""
    reason = f"{budget.used} of the {budget.calls} calls of RPC_DAILY_CALLS were made since 00:00 UTC"
    if budget.stage is BudgetStage.WITHIN:
        return Component("rpc budget", Status.OK, reason)
    slow = f"resyncs may be up to {budget.longest:.0f} s apart; revocations are not delayed"
    return Component("rpc budget", Status.WARNING, f"{reason}; {slow}")


def _early(early: EarlyReport) -> Component:
    """Return a warning at most: without it, revocations take effect with their blocks."""
    name = "early revocation"
    if early.problem is not None:
        return Component(name, Status.WARNING, f"not available from {early.endpoint}: {early.problem}")
    out = f"tokens that are out by unconfirmed blocks: {_few(early.tokens)}" if early.tokens else ""
    if early.ignored_for:
        pause = f"ignored for {early.ignored_for:.0f} s: the chain lacks a pre-confirmed event"
        return Component(name, Status.WARNING, "; ".join(filter(None, (pause, out))))
    return Component(name, Status.OK, out)


def _few(tokens: tuple[int, ...]) -> str:
    text = ", ".join(map(str, tokens[:MOST_NAMED]))
    return f"{text} and {len(tokens) - MOST_NAMED} more" if len(tokens) > MOST_NAMED else text


def _relays(problems: Mapping[str, str]) -> Component:
    """Return a warning: the network works without other members' relays."""
    named = [f"peer {key}: {problem}" for key, problem in list(problems.items())[:MOST_NAMED]]
    more = [f"and {len(problems) - MOST_NAMED} more"] if len(problems) > MOST_NAMED else []
    return Component("peer relays", Status.WARNING, "; ".join(named + more))


def _policy(policy: PolicyReport) -> Component:
    """Fail if a policy is refused or not enforced; warn if a test of the one in force fails."""
    if policy.unenforced is not None:
        reason = f"it can't be enforced, so this node has no peers: {policy.unenforced}"
        return Component("policy", Status.FAILED, reason)
    if policy.refused is not None:
        stays = "nothing is permitted" if policy.in_force == () else "the last good one stays in force"
        return Component("policy", Status.FAILED, f"{policy.refused}; {stays}")
    if policy.in_force == ():
        reason = policy.warning or "no policy is confirmed yet"
        return Component("policy", Status.FAILED, f"{reason}, so nothing is permitted")
    if policy.warning is not None:
        return Component("policy", Status.WARNING, policy.warning)
    return Component("policy", Status.OK)


def _exit(exit_: ExitReport) -> Component:
    """Fail if nothing leaves; warn if the exit is not the preferred one."""
    refused = "; ".join(f"{name}: {problem}" for name, problem in exit_.refused.items())
    if exit_.unguarded is not None:
        return Component("exit", Status.FAILED, f"nothing leaves: {exit_.unguarded}")
    if exit_.used is None:
        return Component("exit", Status.FAILED, f"nothing leaves: {refused}")
    if exit_.used in exit_.silent:
        return Component("exit", Status.FAILED, f"{exit_.used} does not answer, so nothing leaves")
    lacks = [f"IPv{version} is blocked" for version in (4, 6) if version not in exit_.versions]
    reason = "; ".join([f"by {exit_.used}", *lacks])
    if exit_.preferred:
        return Component("exit", Status.OK, reason)
    silent = "; ".join(f"{name} does not answer" for name in exit_.silent)
    why = "; ".join(filter(None, (refused, silent))) or "the preferred exit answers again"
    return Component("exit", Status.WARNING, f"{reason}; {why}")


def _routes(routes: RoutesReport) -> Component:
    """Warn of networks that conflict with this host."""
    found = [f"{network} is not used: {problem}" for network, problem in routes.conflicts.items()]
    more = f"; and {len(found) - MOST_NAMED} more" if len(found) > MOST_NAMED else ""
    reason = "; ".join(found[:MOST_NAMED]) + more
    return Component("routes", Status.WARNING if found else Status.OK, reason)


def _firewall(firewall: FirewallReport) -> Component:
    """Fail if rules can't be set; warn without a packet filter, unless that is a setting."""
    if firewall.problem is not None:
        return Component("firewall", Status.FAILED, firewall.problem)
    chosen = firewall.unprotected is None or firewall.by_choice
    return Component("firewall", Status.OK if chosen else Status.WARNING, firewall.unprotected or "")
