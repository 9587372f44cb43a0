"""Supervision of the packet filter: it follows host names and restores rules that others edited."""

import asyncio
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import structlog

from dstack_vpn.core.model import Cidr
from dstack_vpn.core.paths.port_forward import Forward
from dstack_vpn.errors import FirewallError
from dstack_vpn.ports import Firewall, FirewallRules, PortForward, Resolver

_log = structlog.get_logger(component="firewall")

CHECK: Final = 10.0
"""Seconds between checks of the host names and the rules."""
RETRY: Final = 2.0
"""Seconds until a failed check is repeated."""


@dataclass(slots=True)
class FirewallController:
    """The packet filter of this node."""

    firewall: Firewall
    resolver: Resolver
    interface: str
    prefixes: frozenset[Cidr]
    protect: bool
    closed: frozenset[tuple[str, int]] = frozenset()
    """See `ports.FirewallRules.closed`."""
    forwards: Sequence[Forward] = ()
    check: float = CHECK
    problem: str | None = field(default=None, init=False)
    """The reason that the rules can't be set, or None."""
    _applied: FirewallRules | None = field(default=None, init=False)
    _edited: bool = field(default=False, init=False)
    """Set if the last check found the rules edited, so that it is logged once."""

    async def run(self) -> None:
        """Keep the rules in place until cancelled. Absorbs `FirewallError`: health shows it."""
        while True:
            problem = None
            try:
                problem = await self._keep()
            except FirewallError as error:
                self._applied, problem = None, str(error)
            if problem is not None and problem != self.problem:
                _log.error("firewall.trouble", problem=problem)
            self.problem = problem
            await asyncio.sleep(self.check if problem is None else min(RETRY, self.check))

    async def _keep(self) -> str | None:
        """Set the rules; return the problems that affect only a part of them, or None."""
        if self._applied is None:
            # Names may take a while; the protecting rules do not wait for them.
            await self._apply(self._rules(frozenset()))
        elif await self.firewall.is_applied(self.interface):
            self._edited = False
        else:
            if not self._edited:
                reason = "another program has removed or edited our table; it is set again"
                _log.warning("firewall.gone", reason=reason)
            self._applied, self._edited = None, True
        found = {forward: await self._resolve(forward) for forward in self.forwards}
        await self._apply(self._rules(frozenset(filter(None, found.values()))))
        lost = [str(forward) for forward, port_forward in found.items() if port_forward is None]
        problems = [f"FORWARD_TO: no address for {', '.join(lost)}"] if lost else []
        versions = {ipaddress.ip_address(h.address).version for h in found.values() if h is not None}
        if versions and (conflict := await self.firewall.conflict(self.interface, versions)) is not None:
            problems.append(conflict)
        return "; ".join(problems) or None

    async def _resolve(self, forward: Forward) -> PortForward | None:
        address = await self.resolver.resolve(forward.host, forward.to_port)
        if address is None:
            return None
        return PortForward(forward.protocol, forward.port, address.host, address.port)

    def _rules(self, port_forwards: frozenset[PortForward]) -> FirewallRules:
        return FirewallRules(self.interface, self.prefixes, self.protect, self.closed, port_forwards)

    async def _apply(self, rules: FirewallRules) -> None:
        if rules == self._applied:
            return
        await self.firewall.apply(rules)
        self._applied = rules
        _log.info(
            "firewall.applied",
            interface=rules.interface,
            protects=sorted(rules.prefixes) if rules.protect else [],
            port_forwards=[
                f"{h.protocol}:{h.port} to {h.address}:{h.to_port}" for h in sorted(rules.port_forwards)
            ],
        )

    async def stop(self) -> None:
        """Remove our rules. Absorbs `FirewallError`: it is only logged at shutdown."""
        try:
            await self.firewall.remove(self.interface)
        except FirewallError as error:
            _log.error("firewall.trouble", problem=str(error))
