"""The exit by which everything leaves (EXIT_NODE), and the kill switch around it.

The kill switch is in force before the interface exists, and stays if the daemon is killed. An exit
is used only while it is in force. Without an exit, everything without the mark is blocked.

The exits are measured by echoes, so that a silent one is found within 3 s.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Final

import structlog

from dstack_vpn.core.access.exits import DEFAULTS, ExitCandidate, ExitChoice, exit_candidate
from dstack_vpn.core.access.roles import Standing
from dstack_vpn.core.model import Cidr, TokenId
from dstack_vpn.core.observe.events import ExitBlocked, ExitUsed
from dstack_vpn.core.observe.reports import ExitReport
from dstack_vpn.core.wireguard.keys import PublicKey
from dstack_vpn.daemon.peers.members import Members
from dstack_vpn.errors import FirewallError
from dstack_vpn.ports import Clock, ExitGuard, Firewall, Publish

_log = structlog.get_logger(component="firewall")

TICK: Final = 0.1
"""Seconds between choices."""
CHECK: Final = 10.0
"""Seconds between comparisons of the kill switch."""
RETRY: Final = 1.0
"""Seconds until a failed kill switch is set again."""
UNREAD: Final = "the registry was not read yet"


@dataclass(slots=True)
class ExitKeeper:
    """The exit of this node."""

    names: tuple[str, ...]
    """EXIT_NODE; empty: packets leave as the host routes them."""
    guard: ExitGuard
    """The kill switch, without the parts that depend on the exit."""
    firewall: Firewall
    members: Members
    clock: Clock
    publish: Publish
    standing: Callable[[PublicKey], Standing]
    watch: Callable[[frozenset[PublicKey]], None]
    """Measures peers often."""
    edited: asyncio.Event
    """Set when another program may have changed the kill switch."""
    candidates: list[ExitCandidate] = field(default_factory=list, init=False)
    choice: ExitChoice = field(default_factory=ExitChoice, init=False)
    problem: str | None = field(default=None, init=False)
    """The reason that the kill switch is not in force."""
    _guarded: ExitGuard | None = field(default=None, init=False)
    """The kill switch as it was set last."""
    _used: ExitCandidate | None = field(default=None, init=False)
    """The exit that the peers have."""
    _blocked: str | None = field(default=None, init=False)
    """The reason that nothing leaves, as it was published last."""
    _checked: float = field(default=0.0, init=False)

    @property
    def used(self) -> ExitCandidate | None:
        """The exit in use; None: nothing leaves, or there is no EXIT_NODE."""
        return self._used

    def report(self) -> ExitReport | None:
        """Report for health; None without an EXIT_NODE."""
        if not self.names:
            return None
        used = self._used
        refused = {each.name: each.problem for each in self.candidates if each.problem is not None}
        if not self.candidates:
            refused = dict.fromkeys(self.names, UNREAD)
        silent = [each.name for each in self.candidates if each.key and self._is_silent(each.key)]
        return ExitReport(
            used=None if used is None else used.name,
            preferred=used is not None and used.name == self.names[0],
            versions=() if used is None else tuple(sorted(used.versions)),
            refused=refused,
            silent=tuple(silent),
            unguarded=self.problem,
        )

    # -- tasks -------------------------------------------------------------------------------------

    async def begin(self) -> None:
        """Set the kill switch before anything else is set up, or remove one that was left."""
        if self.names:
            await self._guard(self.guard_of(None))
            await self.choose()
        else:
            with suppress(FirewallError):  # without nftables, nothing was left
                await self.firewall.unguard(self.guard.interface)

    async def run(self) -> None:
        """Choose the exit, and keep the kill switch, until cancelled. Absorbs `FirewallError`."""
        while self.names:
            with suppress(TimeoutError):
                await asyncio.wait_for(self.edited.wait(), TICK if self.problem is None else RETRY)
            await self._compare()
            await self.choose()
        await asyncio.Event().wait()

    async def stop(self) -> None:
        """Remove the kill switch. Absorbs `FirewallError`: it is only logged at shutdown."""
        if not self.names:
            return
        try:
            await self.firewall.unguard(self.guard.interface)
        except FirewallError as error:
            _log.error("exit.trouble", problem=str(error))

    # -- the exit ----------------------------------------------------------------------------------

    async def choose(self) -> None:
        """Choose an exit again, and let everything lead to it."""
        members = self.members
        if not members.known:
            return
        access, now = members.lasting_access, members.now()
        self.candidates = [exit_candidate(access, name, self._may_leave, now) for name in self.names]
        keys = {each.key for each in self.candidates if each.problem is None and each.key is not None}
        self.watch(frozenset(keys))
        standings = {key: self.standing(key) for key in keys}
        chosen = self.choice.choose(self.candidates, standings, self.clock.monotonic())
        await self._guard(self.guard_of(chosen))
        self._lead_to(chosen if self.problem is None else None)

    def guard_of(self, exit_: ExitCandidate | None) -> ExitGuard:
        """Return the kill switch for an exit."""
        versions = frozenset[int]() if exit_ is None else exit_.versions
        within = self.guard.prefixes | (self.members.routes.networks or frozenset())
        return replace(self.guard, versions=versions, within=within)

    def _lead_to(self, exit_: ExitCandidate | None) -> None:
        if exit_ != self._used or exit_ is None:
            self._publish(exit_)
        if exit_ == self._used:
            return
        former, self._used = self._used, exit_
        moves: dict[Cidr, TokenId | None] = {}
        for version, route in DEFAULTS.items():
            token = exit_.token if exit_ is not None and version in exit_.versions else None
            if token is not None or (former is not None and version in former.versions):
                moves[route] = token
        self.members.move_networks(moves)

    def _publish(self, exit_: ExitCandidate | None) -> None:
        if exit_ is not None:
            former, self._blocked = self._used, None
            if former is None or former.token != exit_.token:
                name = None if former is None else former.name
                has = exit_.versions
                self.publish(ExitUsed(exit_.name, exit_.token, name, 4 in has, 6 in has))
            return
        reasons = self.problem or "; ".join(f"{each.name}: {each.problem}" for each in self.candidates)
        if reasons != self._blocked:
            self._blocked = reasons
            self.publish(ExitBlocked(reasons))

    def _may_leave(self) -> bool:
        """Return whether the policies let this node use the internet."""
        return any(map(self.members.policies.reaches, DEFAULTS.values()))

    def _is_silent(self, key: PublicKey) -> bool:
        return self.standing(key) is Standing.SILENT

    # -- the kill switch ---------------------------------------------------------------------------

    async def _guard(self, wanted: ExitGuard) -> None:
        """Set the kill switch if it differs."""
        if wanted == self._guarded:
            return
        try:
            await self.firewall.guard(wanted)
        except FirewallError as error:
            self._guarded = None
            self._note(f"the kill switch can't be set: {error}")
        else:
            self._guarded = wanted
            self._note(None)

    async def _compare(self) -> None:
        """Set the kill switch again if another program has edited it."""
        now = self.clock.monotonic()
        if not self.edited.is_set() and now - self._checked < CHECK:
            return
        self.edited.clear()
        self._checked = now
        try:
            if self._guarded is not None and not await self.firewall.is_guarded(self.guard.interface):
                _log.warning("exit.edited", interface=self.guard.interface)
                self._guarded = None
        except FirewallError as error:
            self._guarded = None
            self._note(f"the kill switch can't be read: {error}")

    def _note(self, problem: str | None) -> None:
        if problem is not None and problem != self.problem:
            _log.error("exit.trouble", problem=problem)
        self.problem = problem
