"""The demo from start to end: checks, story, summary and clean-up.

The clean-up finds everything by the run's tag, not by this process's memory, so an interruption at
any moment leaves nothing behind. Signals wait during the clean-up.
"""

import contextlib
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

import click
from rich.console import Console
from rich.text import Text

from demo.acts import Acts
from demo.lab import Lab, LabRun
from demo.screen import PICTURE, LiveScreen, PlainScreen, Screen, summary
from demo.story import StepFailedError, Story
from demo.tools import find_tools
from dstack_vpn.errors import AdminError

_ENDINGS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_WIDTH: Final = 100
"""Columns of the output to files and pipes."""
_CLOCK: Final = """\
The time of a change runs from before its transaction is sent, anvil's mining included,
to the acknowledgement by the last node's WireGuard or packet filter. "daemon" is its daemon's part.
All times are of this machine's clock."""


def show(*, keep: bool, plain: bool) -> None:
    """Run the demo; raises `AdminError` if it cannot start or a step fails."""
    tools = find_tools()
    console = Console(highlight=False)
    live = console.is_terminal and not plain
    if not console.is_terminal:
        console.width = _WIDTH
    screen = (LiveScreen if live else PlainScreen)(console, Acts.COUNT)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    lab, left = Lab(tools), False
    try:
        failure = _play(lab, screen)
        if keep:
            _say_how_to_look(lab, screen)
            lab.leave_running()
            left = True
        elif failure is not None:
            failure = f"{failure}\nTheir logs are in {_save_logs(lab.run)}"
    finally:
        if not left:
            with _uninterrupted():
                lab.close()
    if failure is not None:
        raise AdminError(failure)


def clean() -> None:
    """Remove all ended runs."""
    removed = 0
    for run in LabRun.all():
        if run.lock():
            run.remove()
            removed += 1
    click.echo(
        f"removed {removed} demo{'s' if removed != 1 else ''}" if removed else "there is nothing to remove"
    )


def _play(lab: Lab, screen: Screen) -> str | None:
    """Run the story; returns the failure, or None."""
    screen.print(Text("\ndstack-vpn: the network follows the chain\n", "bold"))
    screen.print(Text(PICTURE, "cyan"))
    story, began = Story(screen), time.monotonic()
    try:
        with screen:
            story.play(Acts(lab, story).all())
    except StepFailedError as error:
        return str(error)
    screen.print(summary(story.steps))
    screen.print(Text(f"\n{_CLOCK}\n", "dim"))
    screen.print(Text(f"All steps passed in {time.monotonic() - began:.1f} s.", "bold green"))
    return None


# -- what is left ----------------------------------------------------------------------------------


def _say_how_to_look(lab: Lab, screen: Screen) -> None:
    python = Path(sys.executable)
    screen.print(Text("\nThe network keeps running. To inspect it:", "bold"))
    for node in lab.nodes.values():
        inside = node.namespace.shell_command
        screen.print(Text(f"\nnode {node.name}, in the tunnel {node.address}", "bold"))
        for what, command in (
            ("a shell", inside("bash")),
            ("status", inside(python.with_name("dstack-vpn"), "status")),
            ("WireGuard", inside("wg", "show")),
            ("log", f"tail -f {node.log}"),
            ("dashboard", inside("chromium", "--no-sandbox", node.dashboard)),
        ):
            _say(screen, what, command)
    if lab.has_chain:
        screen.print(Text(f"\nthe chain, {lab.chain.url}, registry {lab.chain.contract}", "bold"))
        _say(screen, "a shell", lab.chain.namespace.shell_command("bash"))
        _say(screen, "log", f"tail -f {lab.chain.log}")
    screen.print(Text("\nto remove it", "bold"))
    _say(screen, "clean up", f"{python} -m demo --clean")


def _say(screen: Screen, what: str, command: str) -> None:
    # In one line, so that it can be copied.
    screen.console.print(Text.assemble(f"  {what:<11}", (command, "cyan")), soft_wrap=True)


def _save_logs(run: LabRun) -> Path:
    """Copy the logs to a directory that survives the clean-up."""
    target = Path(tempfile.mkdtemp(prefix="dstack-vpn-logs-"))
    for log in run.home.rglob("*.log"):
        name = "-".join(log.relative_to(run.home).parts)
        with contextlib.suppress(OSError):
            shutil.copyfile(log, target / name)
    return target


# -- the end ---------------------------------------------------------------------------------------


def _end(number: int, _: FrameType | None) -> NoReturn:
    sys.exit(128 + number)


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Shield from signals: a second Ctrl-C reaches neither this process nor its children."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in _ENDINGS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
