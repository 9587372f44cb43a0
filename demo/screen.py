"""The demo's output: steps, the conditions that they waited for, and the times.

`PlainScreen` prints a line for each fact. `LiveScreen` is for a terminal: finished steps scroll up,
and the current one stays below them, with a spinner and the ping's counters.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from demo.ping import Loss

_WIDTH: Final = 50
"""Characters of a fact, before its time."""

PICTURE: Final = """\
    ┌────────────────────────────────────────┐
    │  chain:  anvil and the registry        │    each box is a
    └─────┬──────────────┬──────────────┬────┘    network namespace
        ┌─┴─┐          ┌─┴─┐          ┌─┴─┐       without a way out
        │ a ╞══════════╡ b ╞══════════╡ c │
        └─╥─┘          └───┘          └─╥─┘       ═ is WireGuard
          ╚═════════════════════════════╝
"""


@dataclass(frozen=True)
class Fact:
    """A condition that was waited for, and now holds."""

    text: str
    seconds: float | None = None
    daemon: float | None = None
    """The daemon's part of the seconds."""
    headline: bool = False
    """True for the step's main wait, for the summary."""


@dataclass
class StoryStep:
    """One step of the demo."""

    number: int
    title: str
    facts: list[Fact] = field(default_factory=list)
    waiting: str = ""
    loss: Loss | None = None
    seconds: float = 0.0
    failure: str = ""


class Screen(ABC):
    """The output of the story."""

    def __init__(self, console: Console, steps: int) -> None:
        self.console = console
        self.steps = steps
        self.answered: Callable[[], int] = lambda: 0
        """The number of ping replies so far."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    @abstractmethod
    def begin(self, step: StoryStep) -> None:
        """Begin a step."""

    @abstractmethod
    def wait(self, step: StoryStep) -> None:
        """Show the condition that the step waits for."""

    @abstractmethod
    def add(self, step: StoryStep, fact: Fact) -> None:
        """Show a fact."""

    @abstractmethod
    def end(self, step: StoryStep) -> None:
        """End a step, which may have failed."""

    def print(self, what: RenderableType = "") -> None:
        """Print text."""
        self.console.print(what, highlight=False, soft_wrap=isinstance(what, str))


class PlainScreen(Screen):
    """Output line by line, for pipes and logs."""

    def begin(self, step: StoryStep) -> None:
        """Print its title."""
        self.print(Text(f"{step.number}/{self.steps}  {step.title}", "bold"))

    def wait(self, step: StoryStep) -> None:
        """Do nothing: the fact follows."""

    def add(self, step: StoryStep, fact: Fact) -> None:
        """Print it."""
        self.print(_fact_line(fact))

    def end(self, step: StoryStep) -> None:
        """Print what the ping lost, or the failure."""
        self.print(_last_line(step))
        self.print()


class LiveScreen(Screen):
    """Output in a terminal."""

    def __init__(self, console: Console, steps: int) -> None:
        super().__init__(console, steps)
        self._step: StoryStep | None = None
        self._spinner = Spinner("dots", style="cyan")
        self._live = Live(console=console, get_renderable=self._view, refresh_per_second=12, transient=True)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the moving part."""
        self._step = None
        self._live.stop()

    def begin(self, step: StoryStep) -> None:
        """Show the step below."""
        self._step = step

    def wait(self, step: StoryStep) -> None:
        """The next frame shows it."""

    def add(self, step: StoryStep, fact: Fact) -> None:
        """The next frame shows it."""

    def end(self, step: StoryStep) -> None:
        """Let it scroll up."""
        self._step = None
        # Otherwise the output would push the last frame down instead of replacing it.
        self._live.refresh()
        mark = Text("✗ ", "bold red") if step.failure else Text("✓ ", "bold green")
        self.print(Group(mark + Text(step.title, "bold"), *map(_fact_line, step.facts), _last_line(step), ""))

    def _view(self) -> RenderableType:
        step = self._step
        if step is None:
            return Text()
        self._spinner.update(text=Text(f" {step.waiting or 'working'}…", "cyan"))
        return Group(
            Text("▶ ", "bold cyan") + Text(step.title, "bold"),
            *map(_fact_line, list(step.facts)),
            Padding(self._spinner, (0, 0, 0, 4)),
            Text(),
            self._footer(step.number),
        )

    def _footer(self, number: int) -> RenderableType:
        bar = Table.grid(padding=(0, 1))
        answered = self.answered()
        counters = f"  a → b: {answered:,} packets answered" if answered else ""
        bar.add_row(
            ProgressBar(total=self.steps, completed=number - 1, width=24, complete_style="cyan"),
            Text(f"step {number} of {self.steps}", "dim"),
            Text(counters, "dim"),
        )
        return bar


def _fact_line(fact: Fact) -> Text:
    line = Text("    · ", "dim") + Text(fact.text)
    if fact.seconds is not None:
        line.pad_right(max(0, _WIDTH - len(fact.text)))
        line.append(f"{duration(fact.seconds):>9}", "bold cyan" if fact.headline else "cyan")
    if fact.daemon is not None:
        line.append(f"  daemon {duration(fact.daemon)}", "dim")
    return line


def _last_line(step: StoryStep) -> Text:
    if step.failure:
        return Text(f"    ✗ {step.failure}", "bold red")
    if step.loss is None:
        return Text(f"    {duration(step.seconds)} in all", "dim")
    return Text("    · a → b meanwhile: ", "dim") + _loss_text(step.loss)


def _loss_text(loss: Loss) -> Text:
    lost = Text(f"{loss.lost} lost", _lost_style(loss))
    return Text(f"{loss.sent} packets, ", "dim") + lost


def _lost_style(loss: Loss) -> str:
    return "bold red" if loss.lost else "green"


def duration(seconds: float) -> str:
    """Format a duration."""
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def summary(steps: Sequence[StoryStep]) -> Table:
    """Return the facts of all steps as a table."""
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("step", justify="right")
    table.add_column("waited for")
    for title in ("took", "daemon", "a → b lost"):
        table.add_column(title, justify="right")
    for step in steps:
        loss = step.loss
        for fact in (fact for fact in step.facts if fact.headline):
            table.add_row(
                Text(str(step.number), "dim"),
                Text(fact.text),
                Text(duration(fact.seconds or 0.0), "cyan"),
                Text("" if fact.daemon is None else duration(fact.daemon), "dim"),
                Text("") if loss is None else Text(f"{loss.lost} of {loss.sent}", _lost_style(loss)),
            )
            loss = None
    return table
