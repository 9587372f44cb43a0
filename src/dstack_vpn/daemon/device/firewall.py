"""Supervision of the packet filter.

It follows host names and the policies, and restores rules that others edited.
"""

import asyncio
import ipaddress
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Final

import structlog

from dstack_vpn.core.limits.time_share import TimeShare
from dstack_vpn.core.model import Cidr
from dstack_vpn.core.observe.events import RulesApplied
from dstack_vpn.core.paths.port_forward import Forward
from dstack_vpn.daemon.peers.policies import Policies
from dstack_vpn.errors import FirewallError
from dstack_vpn.ports import Clock, Firewall, FirewallRules, Forwarding, PortForward, Publish, Resolver

_log = structlog.get_logger(component="firewall")

CHECK: Final = 10.0
"""Seconds between checks of the host names and the rules."""
FORWARDING: Final = 5.0
"""Seconds between checks that the machine forwards for plain clients."""
_VERSIONS: Final = (4, 6)
RETRY: Final = 2.0
"""Seconds until a failed check is repeated."""
AFTER_EDIT: Final = TimeShare(parts=20, least=0.05)
"""The pause before a comparison after another program changed any table."""


@dataclass(slots=True)
class FirewallController:
    """The packet filter of this node."""

    firewall: Firewall
    resolver: Resolver
    interface: str
    prefixes: frozenset[Cidr]
    protect: bool
    policies: Policies
    clock: Clock
    publish: Publish
    enforced: Callable[[], None]
    """Called after the packet filter has taken the rules of the policies."""
    unenforced: Callable[[], None]
    """Called if it can't enforce the policies."""
    filled: asyncio.Event
    """Set once the device's peers are those of the members. A policy that an earlier process has
    left in force stays until then, or until peers of this process need its rules."""
    exits: bool
    """See `ports.FirewallRules.exits`."""
    noticed: Callable[[], None]
    """Called after another program has changed a table."""
    closed: frozenset[tuple[str, int]] = frozenset()
    """See `ports.FirewallRules.closed`."""
    forwards: Sequence[Forward] = ()
    keeps_source: bool = False
    """See `ports.FirewallRules.keeps_source`."""
    check: float = CHECK
    problem: str | None = field(default=None, init=False)
    """The reason that the rules can't be set, or None."""
    forwarding_problem: str | None = field(default=None, init=False)
    """The reason that this machine does not forward for its plain clients, or to its networks."""
    _port_forwards: frozenset[PortForward] = field(default=frozenset(), init=False)
    _applied: FirewallRules | None = field(default=None, init=False)
    _has_applied: bool = field(default=False, init=False)
    """Set once this process has applied rules."""
    _edited: bool = field(default=False, init=False)
    """Set if the last check found the rules edited, so that it is logged once."""
    _due: asyncio.Event = field(default_factory=asyncio.Event, init=False)
    """Set to check at once."""
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)
    _check_took: float = field(default=0.0, init=False)

    @property
    def is_settled(self) -> bool:
        """True if the packet filter has taken the newest rules of the policies."""
        return self.problem is None and self._applied is not None and not self.policies.changed.is_set()

    # -- tasks -------------------------------------------------------------------------------------

    async def run_forwarding(self) -> None:
        """Check that this machine forwards as a gateway. Absorbs `FirewallError`."""
        while True:
            problem = await self._obstacle()
            if problem != self.forwarding_problem:
                self.forwarding_problem = problem
                if problem is not None:
                    _log.error("firewall.no_forwarding", problem=problem)
            await asyncio.sleep(FORWARDING)

    async def _obstacle(self) -> str | None:
        networks = self.policies.networks
        for where, versions in (
            (Forwarding.CLIENTS, _VERSIONS if self.policies.forwarded else ()),
            (Forwarding.NETWORKS, () if networks is None else networks.versions),
        ):
            if versions and (problem := await self._obstacle_to(where, versions)) is not None:
                return problem
        return None

    async def _obstacle_to(self, where: Forwarding, versions: Collection[int]) -> str | None:
        try:
            if (problem := await self.firewall.forwards_nothing(versions)) is not None:
                return problem
            return await self.firewall.conflict(self.interface, versions, where)
        except FirewallError:
            return None  # without nftables, no table of it drops anything

    async def run(self) -> None:
        """Keep the rules in place until cancelled. Absorbs `FirewallError`: health shows it."""
        while True:
            began, problem = self.clock.monotonic(), None
            try:
                problem = await self._keep()
            except FirewallError as error:
                self._failed(str(error))
                problem = str(error)
            self._check_took = self.clock.monotonic() - began
            self._note(problem)
            with suppress(TimeoutError):
                pause = self.check if problem is None else min(RETRY, self.check)
                await asyncio.wait_for(self._due.wait(), pause)
            self._due.clear()

    async def run_policies(self) -> None:
        """Apply the rules of the policies as they change. Absorbs `FirewallError`."""
        if await self._is_left(with_policy=True):
            await self.filled.wait()
        while True:
            await self.policies.changed.wait()
            try:
                await self._take()
            except FirewallError:
                await asyncio.sleep(RETRY)

    async def watch(self) -> None:
        """Check soon after another program has changed a table."""
        while True:
            try:
                await self.firewall.edited()
            except FirewallError:
                await asyncio.sleep(self.check)  # the regular check shows the same problem
            else:
                self.noticed()
                await asyncio.sleep(AFTER_EDIT.pause(self._check_took))
                self._due.set()

    async def settle(self) -> None:
        """Apply the newest rules of the policies, if any are in force; raises `FirewallError`.

        New peers wait for it.
        """
        if self.policies.compiled is not None:
            await self._take()

    async def _take(self) -> None:
        async with self._lock:
            try:
                await self._apply_now()
            except FirewallError as error:
                self._failed(str(error))
                self._note(str(error))
                raise

    async def stop(self) -> None:
        """Remove our rules. Absorbs `FirewallError`: it is only logged at shutdown."""
        try:
            await self.firewall.remove(self.interface)
        except FirewallError as error:
            _log.error("firewall.trouble", problem=str(error))

    # -- helpers -----------------------------------------------------------------------------------

    async def _keep(self) -> str | None:
        """Set the rules; return the problems that affect only a part of them, or None."""
        async with self._lock:
            if self._applied is not None and not self._is_empty(self._applied):
                if await self.firewall.is_applied(self.interface):
                    self._edited = False
                else:
                    if not self._edited:
                        reason = "another program has removed or edited our table; it is set again"
                        _log.warning("firewall.gone", reason=reason)
                    self._applied, self._edited = None, True
            # Names may take a while; the protecting rules do not wait for them.
            await self._apply()
        found = {forward: await self._resolve(forward) for forward in self.forwards}
        self._port_forwards = frozenset(filter(None, found.values()))
        async with self._lock:
            await self._apply()
        lost = [str(forward) for forward, port_forward in found.items() if port_forward is None]
        problems = [f"FORWARD_TO: no address for {', '.join(lost)}"] if lost else []
        versions = {ipaddress.ip_address(h.address).version for h in found.values() if h is not None}
        conflict = (
            await self.firewall.conflict(self.interface, versions, Forwarding.PORTS) if versions else None
        )
        if conflict is not None:
            problems.append(conflict)
        return "; ".join(problems) or None

    async def _resolve(self, forward: Forward) -> PortForward | None:
        address = await self.resolver.resolve(forward.host, forward.to_port)
        if address is None:
            return None
        return PortForward(forward.protocol, forward.port, address.host, address.port)

    async def _apply(self) -> None:
        """Apply the rules that are wanted now, if they differ. The caller holds the lock."""
        if self._has_applied or self.filled.is_set() or not await self._is_left(with_policy=True):
            await self._apply_now()

    async def _apply_now(self) -> None:
        policy, seen = self.policies.take()
        needed = self.protect or policy is not None
        rules = FirewallRules(
            self.interface,
            self.prefixes,
            self.protect,
            self.closed,
            self._port_forwards,
            policy,
            self.policies.forwarded if needed else frozenset(),
            None if self.policies.networks is None else self.policies.networks.usable,
            self.keeps_source,
            self.exits,
        )
        if rules != self._applied:
            if not self._is_empty(rules) or await self._is_left(with_policy=False):
                await self.firewall.apply(rules)
            if self._is_empty(rules):
                await self.firewall.remove(self.interface)
            before, self._applied, self._has_applied = self._applied, rules, True
            self._published(before, rules, seen)
        if self.policies.known:
            self.enforced()

    async def _is_left(self, *, with_policy: bool) -> bool:
        """Return whether an earlier process has left rules, or this one has made them."""
        try:
            return await self.firewall.is_present(self.interface, with_policy=with_policy)
        except FirewallError:
            return False

    def _is_empty(self, rules: FirewallRules) -> bool:
        return not (rules.protect or rules.port_forwards or rules.policy is not None or rules.networks)

    def _failed(self, problem: str) -> None:
        """Record that the kernel did not take the rules."""
        self._applied = None
        if self.policies.compiled is not None:
            self.policies.changed.set()
            self.unenforced()

    def _note(self, problem: str | None) -> None:
        if problem is not None and problem != self.problem:
            _log.error("firewall.trouble", problem=problem)
        self.problem = problem

    def _published(self, before: FirewallRules | None, rules: FirewallRules, seen: float | None) -> None:
        policy = rules.policy
        if policy is not None and (before is None or before.policy is not policy):
            latency = None if seen is None else self.clock.monotonic() - seen
            self.publish(RulesApplied(policy.size, len(policy.groups), latency))
        if before is not None and _without_policy(before) == _without_policy(rules):
            return
        _log.info(
            "firewall.applied",
            interface=rules.interface,
            protects=sorted(rules.prefixes) if rules.protect else [],
            port_forwards=[
                f"{h.protocol}:{h.port} to {h.address}:{h.to_port}" for h in sorted(rules.port_forwards)
            ],
            networks=sorted(rules.networks or ()),
        )


def _without_policy(rules: FirewallRules) -> FirewallRules:
    return replace(rules, policy=None, forwarded=frozenset())
