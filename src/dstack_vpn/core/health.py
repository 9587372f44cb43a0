"""Health: what an operator should know, told from facts.

`live` means that the daemon does its work, `ready` that the tunnel carries members of the registry, and
`healthy` that nobody needs to look. An unreachable chain makes a node unhealthy, never unready: the tunnels
go on with the last known members, and restarting it would help nobody.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from dstack_vpn.core.keyage import KeyFacts, span
from dstack_vpn.core.lag import WORTH_A_LOOK
from dstack_vpn.core.staleness import StalePolicy

CLOCK_TOLERANCE: Final = 30.0
"""Seconds by which a block's time may differ from ours: sequencers' clocks are not perfect either."""
DEV_CLOCK_TOLERANCE: Final = 600.0
"""A dev chain gives every block a second of its own, so that a busy one runs ahead of the time."""
HEAD_PATIENCE: Final = 60.0
"""Seconds without a new head until that is worth a person's look, where blocks come at a known pace."""

MOST_NAMED: Final = 10
"""Tokens that a reason names."""


class Status(StrEnum):
    """How a component is."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(slots=True)
class QuorumFacts:
    """How the endpoints agree, where several have to."""

    needed: int
    agreeing: int = 0
    """Endpoints that had our block and answered at the last audit, the followed one included."""
    waiting: int = 0
    """Grants that wait for others to show them."""
    disputed: list[int] = field(default_factory=list)
    """Tokens that are out because one endpoint shows them out and others don't."""
    contested: dict[int, list[str]] = field(default_factory=dict)
    """Tokens about which endpoints contradict each other, and none can be outvoted."""
    quarantined: dict[str, str] = field(default_factory=dict)
    """Endpoints that were found to lie and are left alone for now, and in what they did."""
    lies: dict[str, int] = field(default_factory=dict)
    """How often each endpoint was found to lie."""
    silent: dict[str, str] = field(default_factory=dict)
    """Endpoints that said nothing at the last audit, and why."""


@dataclass(slots=True)
class Facts:
    """What the bridge knows about itself. Times are Unix seconds; None means never."""

    started: float
    # chain
    endpoint: str | None = None
    """The endpoint in use; None while there is none."""
    chain_problem: str | None = "no endpoint has answered yet"
    chain_since: float | None = None
    """Since when the chain has been as it is now: reachable or not."""
    head: int | None = None
    head_seen: float | None = None
    lag: tuple[float, int] = 0.0, 0
    """Seconds and blocks that we are behind what endpoints show."""
    paced: bool = False
    """Whether blocks come at a known pace, so that silence means something."""
    synced: float | None = None
    """When the registry was last known to be what the chain says."""
    quorum: QuorumFacts | None = None
    """None where one endpoint is believed."""
    stale: bool = False
    """The members come from the state directory; the chain has not confirmed them since the start."""
    age: float | None = None
    """Seconds since the registry was last known to be what the chain says; None: never, since the start."""
    max_staleness: float = math.inf
    """Seconds..."""
    stale_policy: StalePolicy = StalePolicy.KEEP
    """...and what then."""
    isolated: bool = False
    """There are no peers, because what is known of the chain is too old."""
    too_old: str | None = None
    """Why nobody comes back from the state directory."""
    # device
    interface_up: bool = False
    device_problem: str | None = "the interface has not been set up yet"
    device_since: float | None = None
    route_problem: str | None = None
    """Which route of another program takes packets that belong into the tunnel."""
    without_ipv6: bool = False
    """Whether the host has IPv6 disabled, so that the interface has no IPv6 address."""
    applied: float | None = None
    """When the device was last seen to be as it should be."""
    braked: int = 0
    """How many removals wait for a second reading of the chain."""
    pinned: bool = False
    # own membership
    own_problem: str | None = None
    key: KeyFacts | None = None
    """None where our key may get as old as it likes."""
    clock_problem: str | None = None
    # storage
    store_problem: str | None = None
    audit_problem: str | None = None
    # relays
    relay_problems: dict[str, str] = field(default_factory=dict)
    """Peers whose relays get nothing through, and why."""
    # packet filter
    firewall: bool = False
    """Whether there is to be one."""
    firewall_problem: str | None = None
    unprotected: str | None = None
    """What no packet filter enforces, and why; None: it is enforced."""
    unprotected_by_choice: bool = False
    """Whether the settings ask for that."""


@dataclass(frozen=True, slots=True)
class Component:
    """One part of the system, how it is, why, and since when (Unix seconds)."""

    name: str
    status: Status
    reason: str = ""
    since: float | None = None


@dataclass(frozen=True, slots=True)
class Health:
    """The verdict."""

    ready: bool
    components: tuple[Component, ...] = field(default_factory=tuple)

    @property
    def healthy(self) -> bool:
        """Whether no component has failed."""
        return all(component.status is not Status.FAILED for component in self.components)

    @property
    def status(self) -> Status:
        """The worst of the components."""
        order = list(Status)
        return max((c.status for c in self.components), key=order.index, default=Status.OK)


_NO_PARTS: Final[Mapping[str, str | None]] = MappingProxyType({})


def evaluate(facts: Facts, now: float, parts: Mapping[str, str | None] = _NO_PARTS) -> Health:
    """Judge the facts at ``now``.

    ``parts`` are the optional parts that run, such as the DNS server, each with the reason for which it does
    not work, or None. A part that is configured and does not work has failed.
    """
    known = (facts.synced is not None or facts.stale) and not facts.isolated
    ready = facts.interface_up and facts.device_problem is None and known
    components = [_chain(facts, now), _registry(facts), _device(facts), _own(facts), _store(facts)]
    if facts.quorum is not None:
        components.append(_quorum(facts.quorum))
    if facts.clock_problem is not None:
        components.append(Component("clock", Status.WARNING, facts.clock_problem))
    if facts.key is not None:
        components.append(_key(facts.key))
    if facts.relay_problems:
        components.append(_relays(facts.relay_problems))
    if facts.firewall or facts.unprotected is not None:
        components.append(_firewall(facts))
    components += [
        Component(name, Status.OK if problem is None else Status.FAILED, problem or "")
        for name, problem in parts.items()
    ]
    return Health(ready, tuple(components))


def clock_problem(lag: float, *, paced: bool) -> str | None:
    """What is wrong with our clock, by how much later than its block's time a head came; seconds.

    Where blocks come when there is something to put in, an old one means nothing.
    """
    advice = "correct the time (NTP): access that expires is judged by it"
    if lag < -(CLOCK_TOLERANCE if paced else DEV_CLOCK_TOLERANCE):
        return f"this machine's clock is {-lag:.0f} s behind the newest block; {advice}"
    if paced and lag > HEAD_PATIENCE + CLOCK_TOLERANCE:
        ahead = f"this machine's clock is {lag:.0f} s ahead of the newest block"
        return f"{ahead}, or the endpoint is late; {advice}"
    return None


def _chain(facts: Facts, now: float) -> Component:
    if facts.chain_problem is not None:
        return Component("chain", Status.FAILED, facts.chain_problem, facts.chain_since)
    age = now - (facts.head_seen or facts.started)
    if facts.paced and age > HEAD_PATIENCE:
        return Component("chain", Status.FAILED, f"no new block for {age:.0f} s", facts.head_seen)
    seconds, blocks = facts.lag
    if seconds > WORTH_A_LOOK:
        reason = f"{blocks} blocks and {seconds:.0f} s behind the newest block that an endpoint has shown"
        return Component("chain", Status.FAILED, reason, facts.chain_since)
    return Component("chain", Status.OK, f"following {facts.endpoint}", facts.chain_since)


def _registry(facts: Facts) -> Component:
    if facts.braked:
        reason = (
            f"{facts.braked} removals, more than half of the peers within an hour, wait until a second "
            "reading of the chain confirms them"
        )
        return Component("registry", Status.FAILED, reason)
    if facts.too_old is not None:
        reason = f"no members until the chain was read: {facts.too_old}"
        return Component("registry", Status.FAILED, reason)
    if facts.age is not None and facts.age > facts.max_staleness / 2:
        return _old(facts, facts.age)
    if facts.synced is None and not facts.stale:
        return Component("registry", Status.FAILED, "not read from the chain yet")
    if facts.stale:
        return Component(
            "registry", Status.WARNING, "members are from the state directory, not confirmed yet"
        )
    if facts.pinned:
        return Component("registry", Status.WARNING, "pinned by 'config rollback'; 'config resume' ends that")
    return Component("registry", Status.OK)


def _old(facts: Facts, age: float) -> Component:
    """The chain was not read for a long time: a warning first, and then what has become of that."""
    said = f"not confirmed by the chain for {age:.0f} s"
    isolates = facts.stale_policy is StalePolicy.ISOLATE
    if age > facts.max_staleness:
        then = "no peers until it is" if isolates else "the members of then are kept"
        return Component("registry", Status.FAILED, f"{said}, longer than MAX_STALENESS: {then}")
    then = "no peers are left" if isolates else "that is a failure"
    left = facts.max_staleness - age
    return Component("registry", Status.WARNING, f"{said}; after another {left:.0f} s {then}")


def _device(facts: Facts) -> Component:
    if facts.device_problem is not None:
        return Component("device", Status.FAILED, facts.device_problem, facts.device_since)
    if not facts.interface_up:
        return Component("device", Status.FAILED, "the interface is gone or down", facts.device_since)
    if facts.route_problem is not None:
        return Component("device", Status.FAILED, facts.route_problem, facts.device_since)
    said = "IPv4 only: IPv6 is disabled on this host" if facts.without_ipv6 else ""
    return Component("device", Status.OK, said)


def _own(facts: Facts) -> Component:
    status = Status.OK if facts.own_problem is None else Status.FAILED
    return Component("membership", status, facts.own_problem or "")


def _key(facts: KeyFacts) -> Component:
    """A warning at most: an old key works as well as a new one."""
    age = facts.age
    if age is None or (age < facts.due and not facts.failures):
        return Component("key", Status.OK)
    said = f"our key is {span(age)} old, and KEY_MAX_AGE allows {span(facts.longest)}"
    if facts.hindrance is not None:
        return Component("key", Status.WARNING, f"{said}: {facts.hindrance}")
    if facts.failures:
        tries = f"{facts.failures} tries" if facts.failures > 1 else "the first try"
        return Component("key", Status.WARNING, f"{said}; {tries} to change it failed: {facts.problem}")
    return Component("key", Status.WARNING if age > facts.longest else Status.OK, said)


def _store(facts: Facts) -> Component:
    problem = "; ".join(filter(None, (facts.store_problem, facts.audit_problem)))
    return Component("store", Status.WARNING if problem else Status.OK, problem)


def _quorum(facts: QuorumFacts) -> Component:
    """Failed while endpoints contradict each other or too few agree; a warning while one is in quarantine."""
    failures = [
        f"{' and '.join(who)} contradict each other about token {token}, which stays out"
        for token, who in list(facts.contested.items())[:MOST_NAMED]
    ]
    if facts.agreeing < facts.needed:
        failures.append(f"{facts.agreeing} of the {facts.needed} endpoints that RPC_QUORUM asks for agree")
    warnings = [f"{name} is in quarantine: {why}" for name, why in facts.quarantined.items()]
    warnings += [f"{name} says nothing: {why}" for name, why in facts.silent.items()]
    if facts.disputed:
        warnings.append(f"tokens {_few(facts.disputed)} are out according to one endpoint")
    if facts.waiting:
        warnings.append(f"{facts.waiting} grants wait until {facts.needed} endpoints show them")
    reason = "; ".join(failures + warnings)
    if failures:
        return Component("quorum", Status.FAILED, reason)
    return Component("quorum", Status.WARNING if warnings else Status.OK, reason)


def _few(tokens: list[int]) -> str:
    text = ", ".join(map(str, tokens[:MOST_NAMED]))
    return f"{text} and {len(tokens) - MOST_NAMED} more" if len(tokens) > MOST_NAMED else text


def _relays(problems: dict[str, str]) -> Component:
    """A warning: these are other members' relays, and the network works without."""
    named = [f"peer {key}: {problem}" for key, problem in list(problems.items())[:MOST_NAMED]]
    more = [f"and {len(problems) - MOST_NAMED} more"] if len(problems) > MOST_NAMED else []
    return Component("peer relays", Status.WARNING, "; ".join(named + more))


def _firewall(facts: Facts) -> Component:
    """A failure while rules can't be set, and a warning without a packet filter unless that was chosen."""
    if facts.firewall_problem is not None:
        return Component("firewall", Status.FAILED, facts.firewall_problem)
    chosen = facts.unprotected is None or facts.unprotected_by_choice
    return Component("firewall", Status.OK if chosen else Status.WARNING, facts.unprotected or "")
