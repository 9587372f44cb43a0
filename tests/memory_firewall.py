"""A packet filter in memory."""

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from dstack_vpn.errors import FirewallError
from dstack_vpn.ports import ExitGuard, FirewallRules, Forwarding, PacketCount, PolicyCounts


@dataclass
class MemoryFirewall:
    """A `ports.Firewall` in memory."""

    rules: FirewallRules | None = None
    refuse: str | None = None
    drops: str | None = None
    off: str | None = None
    was_edited: bool = False
    history: list[FirewallRules] = field(default_factory=list)
    before: Callable[[], None] = lambda: None
    """Called before rules are applied."""
    edits: asyncio.Event = field(default_factory=asyncio.Event)
    guards: list[ExitGuard | None] = field(default_factory=list)
    """The kill switches so far; None stands for a removal."""
    counts: PolicyCounts = field(default_factory=lambda: PolicyCounts({}, PacketCount(0, 0), ()))

    def was_applied(self, times: int) -> bool:
        return len(self.history) == times

    def edit(self, rules: FirewallRules | None) -> None:
        """Change the rules as another program does."""
        self.rules, self.was_edited = rules, True
        self.edits.set()

    async def apply(self, rules: FirewallRules) -> None:
        await asyncio.sleep(0)
        if self.refuse is not None:
            raise FirewallError(self.refuse)
        self.before()
        self.rules, self.was_edited = rules, False
        self.history.append(rules)

    async def is_present(self, interface: str, *, with_policy: bool = False) -> bool:
        await asyncio.sleep(0)
        return self.rules is not None and (self.rules.policy is not None or not with_policy)

    async def is_applied(self, interface: str) -> bool:
        await asyncio.sleep(0)
        return self.rules is not None and not self.was_edited

    async def edited(self) -> None:
        await self.edits.wait()
        self.edits.clear()

    async def count(self, interface: str) -> PolicyCounts:
        await asyncio.sleep(0)
        return self.counts

    async def conflict(self, interface: str, versions: Collection[int], where: Forwarding) -> str | None:
        await asyncio.sleep(0)
        return self.drops

    async def forwards_nothing(self, versions: Collection[int]) -> str | None:
        await asyncio.sleep(0)
        return self.off

    async def remove(self, interface: str) -> None:
        await asyncio.sleep(0)
        if self.refuse is not None:
            raise FirewallError(self.refuse)
        self.rules = None

    async def guard(self, guard: ExitGuard) -> None:
        await asyncio.sleep(0)
        if self.refuse is not None:
            raise FirewallError(self.refuse)
        self.guards.append(guard)

    async def is_guarded(self, interface: str) -> bool:
        await asyncio.sleep(0)
        return bool(self.guards) and self.guards[-1] is not None and not self.was_edited

    async def unguard(self, interface: str) -> None:
        await asyncio.sleep(0)
        self.guards.append(None)
