"""The reporting tools for the acts of the demo: steps, waits with their times, changes, and the
ping between.

The times of changes count from just before the transaction is sent, anvil's mining included, to the
last daemon's log line that says that its device has acknowledged the change. All the while a ping
runs from a to b, which no step may disturb: a packet lost is a failure.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from demo.lab import Change
from demo.namespaces import Namespace
from demo.ping import Ping
from demo.screen import Fact, Screen, StoryStep
from dstack_vpn.errors import AdminError, DstackVpnError

_WATCHED: Final = 100
"""Packets of the ping that a step looks at, at least."""

Act = tuple[str, Callable[[], None]]
"""A step's title, and what it does."""


class StepFailedError(AdminError):
    """An expectation did not hold."""


class Story:
    """Tells acts on a screen."""

    def __init__(self, screen: Screen) -> None:
        self.screen = screen
        self.steps: list[StoryStep] = []
        self._ping: Ping | None = None

    def tell(self, acts: Sequence[Act]) -> None:
        """Run all acts; raises `StepFailedError` if a step failed."""
        try:
            for number, (title, act) in enumerate(acts, 1):
                self._tell_one(StoryStep(number, title), act)
        finally:
            if self._ping is not None:
                self._ping.stop()

    def _tell_one(self, step: StoryStep, act: Callable[[], None]) -> None:
        self.steps.append(step)
        self.screen.begin(step)
        began = time.monotonic()
        try:
            with self._undisturbed(step):
                act()
        except (DstackVpnError, OSError) as error:
            step.failure = str(error)
            raise StepFailedError(f"step {step.number}, {step.title}: {error}") from error
        finally:
            step.seconds = time.monotonic() - began
            self.screen.end(step)

    @contextlib.contextmanager
    def _undisturbed(self, step: StoryStep) -> Iterator[None]:
        """Hold the ping's packets to being answered all the while, once there is one."""
        ping = self._ping
        first = 0 if ping is None else ping.mark()
        yield
        if ping is not None:
            self.waiting("watching the ping from a to b")
            step.loss = ping.between(first, ping.mark(at_least=first + _WATCHED))
            self.expect(step.loss.lost == 0, f"{step.loss.lost} packets from a to b were lost")

    # -- for acts ----------------------------------------------------------------------------------

    @contextlib.contextmanager
    def timed(self, what: str, *, headline: bool = False) -> Iterator[None]:
        """A wait: named while it lasts, a fact with its time afterwards."""
        self.waiting(what)
        began = time.monotonic()
        yield
        self._add(Fact(what, time.monotonic() - began, headline=headline))

    def change(self, what: str, make: Callable[[], Change]) -> None:
        """A change of the registry, waited for on devices."""
        self.waiting(what)
        self.changed(what, make())

    def changed(self, what: str, change: Change) -> None:
        """A change that has come about."""
        text = f"block {change.mined.block}: {what}"
        self._add(Fact(text, change.seconds, change.daemon, headline=True))

    def tell_fact(self, text: str) -> None:
        """Something worth knowing that took no time."""
        self._add(Fact(text))

    def expect(self, held: bool, otherwise: str) -> None:
        """Fail the step where it does not hold."""
        if not held:
            raise StepFailedError(otherwise)

    def start_ping(self, source: Namespace, address: str, output: Path) -> None:
        """From now on no packet to that address may be lost."""
        ping = Ping(source, address, output)
        ping.mark()
        self.screen.answered = lambda: ping.received
        self._ping = ping

    def waiting(self, what: str) -> None:
        """Say what goes on."""
        self.steps[-1].waiting = what
        self.screen.wait(self.steps[-1])

    def _add(self, fact: Fact) -> None:
        step = self.steps[-1]
        step.facts.append(fact)
        step.waiting = ""
        self.screen.add(step, fact)
