"""Health over time: the time of each component's last change, and an event for every change."""

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
"""Seconds between evaluations."""
_NUMBERS: Final = re.compile(r"[0-9]+(?:\.[0-9]+)?", re.ASCII)


@dataclass(slots=True)
class HealthWatch:
    """Evaluates the reports, and keeps the last result."""

    reports: Callable[[], Reports]
    """Collects the reports of all parts but the optional ones."""
    clock: Clock
    publish: Publish
    _parts: dict[str, Callable[[], str | None]] = field(default_factory=dict)
    _found: dict[str, Component] = field(default_factory=dict)

    def watch(self, name: str, problem: Callable[[], str | None]) -> None:
        """Add a component for an optional part; ``problem`` returns its problem, or None."""
        self._parts[name] = problem

    def verdict(self) -> Health:
        """Return the present health, each component with the time since when it has its status."""
        parts = {name: problem() for name, problem in self._parts.items()}
        health = evaluate(replace(self.reports(), parts=parts), self.clock.now())
        return replace(health, components=tuple(map(self._take, health.components)))

    async def run(self) -> None:
        """Evaluate until cancelled, so that a change is published even without requests."""
        while True:
            self.verdict()
            await asyncio.sleep(TICK)

    def _take(self, component: Component) -> Component:
        before = self._found.get(component.name)
        if before is None or before.status is not component.status:
            if component.since is None:  # else the report has the exact time
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
    """Return whether a change is worth an event; other numbers in a reason are not."""
    if before.status is not after.status:
        return True
    return _NUMBERS.sub("", before.reason) != _NUMBERS.sub("", after.reason)
