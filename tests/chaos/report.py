"""The report of a chaos run: a line for each round, and a table at the end."""

import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from rich.console import Console
from tests.chaos.conductor import Outcome
from tests.chaos.invariants import Carried, Invariants

TWO: Final = "two at once"
"""The name of rounds with two faults in the table."""


def percentile(values: Sequence[float], share: float) -> float:
    """Return the nearest-rank percentile."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


@dataclass
class Report:
    """The outcomes so far."""

    seed: int
    log: Path
    """The file of the outcomes, a line of JSON each."""
    outcomes: list[Outcome] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)
    _console: Console = field(default_factory=lambda: Console(highlight=False))

    def add(self, outcome: Outcome) -> None:
        """Record a round, and print it."""
        self.outcomes.append(outcome)
        row = outcome.row()
        with self.log.open("a") as log:
            log.write(json.dumps(row) + "\n")
        if not sys.stdout.isatty():
            print(json.dumps(row), flush=True)  # noqa: T201 - for programs
            return
        bad = bool(outcome.violations)
        colour, result = ("red", "VIOLATED") if bad else ("green", "held")
        names = ", ".join(row["faults"])
        self._console.print(
            f"[dim]{outcome.round.number:5}[/] [{colour}]{result:8}[/] {names}"
            f" [dim]recovered in {outcome.recovery:.2f} s, {outcome.sent} packets, {outcome.lost} lost[/]"
        )
        for violation in outcome.violations:
            self._console.print(f"      [red]{violation}[/]", markup=True)

    @property
    def violations(self) -> int:
        """Return the number of violations."""
        return sum(len(outcome.violations) for outcome in self.outcomes)

    def markdown(self, transactions: int, invariants: Invariants) -> str:
        """Return the report as a section in Markdown."""
        rounds = self.outcomes
        sent, lost = sum(o.sent for o in rounds), sum(o.lost for o in rounds)
        minutes = (time.monotonic() - self.began) / 60
        lines = [
            (
                f"Seed {self.seed}: {minutes:.0f} minutes, {len(rounds):,} rounds with "
                f"{sum(len(o.round.faults) for o in rounds):,} faults, {transactions:,} transactions, "
                f"{sum(o.row()['removals'] for o in rounds):,} removals of peers seen on devices, "
                f"{invariants.samples:,} samples of devices. **{self.violations} violations.** "
                f"Bystanders lost **{lost} of {sent:,} packets**. The longest difference between a node "
                f"and the contract was {invariants.worst:.2f} s without a fault, and "
                f"{invariants.worst_hit:.1f} s from the end of a fault."
            ),
            "",
            (
                "| fault | rounds | no fault: removals | p50 | p99 | max | fault: removals | p50 | p99 | max "
                "| follows again p50 | max | reached again max |"
            ),
            "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
        ]
        for name, found in sorted(self._by_fault().items(), key=lambda item: (item[0] == TWO, item[0])):
            traffic = [o.traffic for o in found if o.traffic is not None]
            cells = [
                *_latencies(found, lambda c: None if c.hit else c.after_change),
                *_latencies(found, lambda c: c.after_fault if c.hit else None),
                _seconds([o.recovery for o in found], 0.5),
                _seconds([o.recovery for o in found], 1.0),
                _seconds(traffic, 1.0),
            ]
            lines.append(f"| {name} | {len(found)} | " + " | ".join(cells) + " |")
        return "\n".join(lines) + "\n"

    def _by_fault(self) -> dict[str, list[Outcome]]:
        found: dict[str, list[Outcome]] = defaultdict(list)
        for outcome in self.outcomes:
            faults = outcome.round.faults
            found[faults[0].kind.name if len(faults) == 1 else TWO].append(outcome)
        return found


def _latencies(outcomes: Iterable[Outcome], of: Callable[[Carried], float | None]) -> list[str]:
    """Return the number of removals and their times: count, p50, p99, max."""
    found = [
        seconds
        for outcome in outcomes
        for carried in outcome.carried
        if carried.gone and (seconds := of(carried)) is not None
    ]
    return [f"{len(found):,}", *(_seconds(found, share) for share in (0.5, 0.99, 1.0))]


def _seconds(values: Sequence[float], share: float) -> str:
    """Format a percentile, in milliseconds if it is below one second."""
    if not values:
        return "-"
    value = percentile(values, share)
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.1f} s"
