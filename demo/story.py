"""The reporting tools for the acts of the demo: steps, waits with their times, changes, and the
ping.

The time of a change runs from before its transaction is sent, anvil's mining included, to the last
daemon's log line about the acknowledgement by its device or packet filter. A ping runs from a to b
all the time. A lost packet fails the step.
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
"""The least number of ping packets in a step."""

Act = tuple[str, Callable[[], None]]
"""A step's title and its function."""


class StepFailedError(AdminError):
    """An expectation did not hold."""


class Story:
    """Reports acts on a screen."""

    def __init__(self, screen: Screen) -> None:
        self.screen = screen
        self.steps: list[StoryStep] = []
        self._ping: Ping | None = None

    def play(self, acts: Sequence[Act]) -> None:
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
        """Fail if the running ping loses a packet meanwhile."""
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
        """Show a wait by name, and afterwards as a fact with its duration."""
        self.waiting(what)
        began = time.monotonic()
        yield
        self._add(Fact(what, time.monotonic() - began, headline=headline))

    def change(self, what: str, make: Callable[[], Change]) -> None:
        """Show a change of the registry that is waited for on devices."""
        self.waiting(what)
        self.changed(what, make())

    def changed(self, what: str, change: Change) -> None:
        """Show a change that reached the devices."""
        text = f"block {change.mined.block}: {what}"
        self._add(Fact(text, change.seconds, change.daemon, headline=True))

    def note(self, text: str) -> None:
        """Show a fact without a duration."""
        self._add(Fact(text))

    def expect(self, held: bool, otherwise: str) -> None:
        """Fail the step if the condition does not hold."""
        if not held:
            raise StepFailedError(otherwise)

    def start_ping(self, source: Namespace, address: str, output: Path) -> None:
        """Start the ping: from now on a lost packet to that address is a failure."""
        ping = Ping(source, address, output)
        ping.mark()
        self.screen.answered = lambda: ping.received
        self._ping = ping

    def waiting(self, what: str) -> None:
        """Show the current activity."""
        self.steps[-1].waiting = what
        self.screen.wait(self.steps[-1])

    def _add(self, fact: Fact) -> None:
        step = self.steps[-1]
        step.facts.append(fact)
        step.waiting = ""
        self.screen.add(step, fact)
