"""Health over time: since when each component is as it is, and an event for every change."""

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from dstack_vpn.core.observe.events import HealthChanged
from dstack_vpn.core.observe.health import Component, Health, evaluate
from dstack_vpn.core.observe.reports import Reports
from dstack_vpn.ports import Clock, Publish

TICK: Final = 0.5
"""Seconds between looks."""
_NUMBERS: Final = re.compile(r"[0-9]+(?:\.[0-9]+)?", re.ASCII)


@dataclass(slots=True)
class HealthWatch:
    """Judges the reports, and remembers what it found."""

    reports: Callable[[], Reports]
    """Collects the reports of all parts but the optional ones."""
    clock: Clock
    publish: Publish
    _parts: dict[str, Callable[[], str | None]] = field(default_factory=dict)
    _found: dict[str, Component] = field(default_factory=dict)

    def watch(self, name: str, problem: Callable[[], str | None]) -> None:
        """Give an optional part a component; ``problem`` returns why it does not work, or None."""
        self._parts[name] = problem

    def verdict(self) -> Health:
        """The verdict now, each component with the time since when it has its status."""
        parts = {name: problem() for name, problem in self._parts.items()}
        health = evaluate(replace(self.reports(), parts=parts), self.clock.now())
        return replace(health, components=tuple(map(self._take, health.components)))

    async def run(self) -> None:
        """Look again and again, so that a change is told even if nobody asks."""
        while True:
            self.verdict()
            await asyncio.sleep(TICK)

    def _take(self, component: Component) -> Component:
        before = self._found.get(component.name)
        if before is None or before.status is not component.status:
            if component.since is None:  # else the report knows better
                component = replace(component, since=self.clock.now())
        else:
            component = replace(component, since=before.since)
        self._found[component.name] = component
        if before is not None and _differs(before, component):
            self.publish(
                HealthChanged(component.name, before.status.value, component.status.value, component.reason)
            )
        return component


def _differs(before: Component, after: Component) -> bool:
    """Whether that is worth a word: a count of seconds in a reason is not."""
    if before.status is not after.status:
        return True
    return _NUMBERS.sub("", before.reason) != _NUMBERS.sub("", after.reason)
