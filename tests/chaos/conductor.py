"""Run rounds in a world, one after the other, and record the outcome of each."""

import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from demo.namespaces import wait_until
from tests.chaos import faults
from tests.chaos.behind import GATEWAY, HOST, OFFICES, USER
from tests.chaos.invariants import Carried, Violation
from tests.chaos.plan import EVERYWHERE, Fault, Round
from tests.chaos.world import BYSTANDERS, World

from dstack_vpn.errors import AdminError

FAILOVER: Final = 5.0
"""Seconds for the second gateway to be used, after the first has been dead for some."""
HANDSHAKE: Final = 20.0
"""Seconds after which a plain client, without a daemon, begins a session with a gateway that has
lost its own: WireGuard waits for 15."""
RULES: Final = 5.0
"""Seconds within which a node's kernel has the rules of the contract's policy, at least."""


@dataclass
class Outcome:
    """The outcome of a round."""

    round: Round
    recovery: float = 0.0
    """Seconds from the fault's end until each node agreed with the contract, and followed it."""
    traffic: float | None = None
    """Seconds from there until the affected node was reachable, if its tunnels were broken."""
    carried: list[Carried] = field(default_factory=list)
    sent: int = 0
    """Packets sent by bystanders."""
    lost: int = 0
    violations: list[Violation] = field(default_factory=list)

    def row(self) -> dict[str, Any]:
        """Return the outcome as a JSON object."""
        return {
            "round": self.round.number,
            "faults": [f"{fault.kind.name} ({fault.target})" for fault in self.round.faults],
            "strengths": [round(fault.strength, 3) for fault in self.round.faults],
            "hold": round(self.round.hold, 3),
            "changes": len(self.round.changes),
            "recovery": round(self.recovery, 3),
            "traffic": None if self.traffic is None else round(self.traffic, 3),
            "removals": sum(carried.gone for carried in self.carried),
            "slowest": round(
                max((c.after_change for c in self.carried if c.gone and not c.hit), default=0), 3
            ),
            "sent": self.sent,
            "lost": self.lost,
            "violations": [asdict(violation) for violation in self.violations],
        }


def play(world: World, plan: Iterable[Round], done: Callable[[Outcome], bool]) -> None:
    """Run rounds until ``done`` returns true."""
    for each in plan:
        if done(_play(world, each)):
            return


def _play(world: World, each: Round) -> Outcome:
    """Run one round, from one healthy state of all nodes to the next."""
    outcome = Outcome(each)
    with world.observer.locked() as invariants:
        before, carried = len(invariants.violations), len(invariants.carried)
    watched = [pair for pair in BYSTANDERS if not any(_interrupts(fault, pair) for fault in each.faults)]
    marks = {pair: world.pings[pair].mark(timeout=30) for pair in watched}
    leaked = len(world.behind.leaks.seen)
    _disturb(world, each, outcome)
    _recover(world, each, outcome)
    for pair, first in marks.items():
        loss = world.pings[pair].between(first, world.pings[pair].mark())
        outcome.sent, outcome.lost = outcome.sent + loss.sent, outcome.lost + loss.lost
        if loss.lost:
            outcome.violations.append(Violation(pair, "", f"lost {loss.lost} packets", loss.longest_gap))
    if packets := world.behind.leaks.seen[leaked:]:
        problem = f"sent {len(packets)} packets beside its exit, such as {packets[0]}"
        outcome.violations.append(Violation(USER, "", problem, 0.0))
    with world.observer.locked() as invariants:
        outcome.violations += invariants.violations[before:]
        outcome.carried = invariants.carried[carried:]
    world.check()
    return outcome


def _touches(fault: Fault, pair: str) -> bool:
    return fault.kind.breaks_tunnels and fault.target in pair


def _interrupts(fault: Fault, pair: str) -> bool:
    return _touches(fault, pair) or (fault.kind.forgets_policy and fault.target in pair)


def _hit(world: World, fault: Fault) -> list[str]:
    return list(world.nodes) if fault.target == EVERYWHERE else [fault.target]


def _disturb(world: World, each: Round, outcome: Outcome) -> None:
    """Begin the faults, change the registry while they last, and end them."""
    for fault in each.faults:
        with world.observer.locked() as invariants:
            for name in _hit(world, fault):
                invariants.hit(name, fault.kind.limit, excused=fault.kind.cuts_off)
    since = time.monotonic()
    healing = [faults.begin(world, fault) for fault in each.faults]
    over = time.monotonic() + each.hold
    if all(fault.kind.changes for fault in each.faults):
        world.read_contract(since)  # a reorg has changed the contract's state
    for change in each.changes:
        time.sleep(change.pause)  # a pause of the plan; it waits for no condition
        world.change(change)
    time.sleep(max(0.0, over - time.monotonic()))  # until the fault ends
    if each.name == "gateway killed" and world.tokens[OFFICES[1]].routes:
        _fail_over(world, outcome)
    for heal in healing:
        heal()


def _fail_over(world: World, outcome: Outcome) -> None:
    """Wait until the second gateway of the office is used."""
    try:
        world.nodes[USER].wait_reaches(HOST, FAILOVER)
    except AdminError:
        outcome.violations.append(
            Violation(USER, "", "does not reach the office by its second gateway", FAILOVER)
        )


def _recover(world: World, each: Round, outcome: Outcome) -> None:
    """Wait until each node agrees with the contract and follows it; record violations."""
    healed = time.monotonic()
    world.read_contract(healed)
    with world.observer.locked() as invariants:
        for name in world.nodes:
            invariants.freed(name, healed)
    probe = world.probe()
    limit = max(fault.kind.limit for fault in each.faults)
    waiting = set(world.nodes)
    while waiting and time.monotonic() - healed < limit:
        time.sleep(0.005)
        world.check()
        with world.observer.locked() as invariants:
            for name in [name for name in waiting if invariants.has(name, probe) and invariants.agrees(name)]:
                waiting.discard(name)
                invariants.well(name)
    outcome.recovery = time.monotonic() - healed
    outcome.violations += [
        Violation(name, probe, "does not follow the contract", outcome.recovery) for name in sorted(waiting)
    ]
    for name in sorted(world.nodes.keys() - waiting):
        problem = world.policy_problem(world.nodes[name])
        while problem is not None and time.monotonic() - healed < max(limit, RULES):
            time.sleep(0.05)
            problem = world.policy_problem(world.nodes[name])
        if problem is not None:
            outcome.violations.append(Violation(name, "", problem, time.monotonic() - healed))
    for fault in each.faults:
        if fault.kind.breaks_tunnels:
            _reach(world, fault, outcome)
    within = limit + (HANDSHAKE if any(_touches(fault, GATEWAY) for fault in each.faults) else 0)
    for name, problem, holds in world.behind.expectations(world.tokens):
        try:
            wait_until(holds, problem, max(within - (time.monotonic() - healed), RULES))
        except AdminError:
            outcome.violations.append(Violation(name, "", problem, time.monotonic() - healed))


def _reach(world: World, fault: Fault, outcome: Outcome) -> None:
    """Wait until the node is reachable and reaches others."""
    began, node = time.monotonic(), world.nodes[fault.target]
    try:
        world.nodes["a"].wait_reaches(node.address, fault.kind.limit)
        node.wait_reaches(world.nodes["b"].address, fault.kind.limit)
    except AdminError:
        outcome.violations.append(
            Violation(node.name, str(node.public_key), "is not reachable again", fault.kind.limit)
        )
    outcome.traffic = max(outcome.traffic or 0.0, time.monotonic() - began)
