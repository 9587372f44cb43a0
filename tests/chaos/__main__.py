"""`make chaos`: faults at random, until the time is over or something was that must never be.

`python -m tests.chaos --minutes 60 --seed 1`; the same seed plays the same rounds, and ``--first`` begins
with a later one. Ends with 1 where an invariant was violated, and then keeps every log beside the report.
"""

import argparse
import contextlib
import shutil
import signal
import sys
import time
from pathlib import Path
from types import FrameType

import click
from tests.chaos.conductor import Outcome, play
from tests.chaos.plan import KINDS, rounds
from tests.chaos.report import Report
from tests.chaos.world import World, faketime, find, world

from dstack_vpn.errors import AdminError


def _end(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> int:
    """Play what the arguments say."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=1, help="the first round to play")
    parser.add_argument("--rounds", type=int, help="how many to play at most")
    parser.add_argument("--only", action="append", help="faults whose name has this in it")
    parser.add_argument("--pace", type=float, default=1.0, help="shortens what a fault lasts")
    parser.add_argument("--go-on", action="store_true", help="after a violation, too")
    parser.add_argument("--out", type=Path, default=Path("build/chaos"))
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, _end)
    arguments.out.mkdir(parents=True, exist_ok=True)
    log = arguments.out / "rounds.jsonl"
    log.write_text("")
    report = Report(arguments.seed, log)
    kinds = [
        kind
        for kind in KINDS
        if (not arguments.only or any(part in kind.name for part in arguments.only))
        and (kind.own_clock or faketime())
    ]
    if not faketime():
        click.echo("NO LIBFAKETIME: clocks don't jump; 'apt install faketime' brings it", err=True)
    plan = (each for each in rounds(arguments.seed, arguments.pace, kinds) if each.number >= arguments.first)

    def done(outcome: Outcome) -> bool:
        report.add(outcome)
        over = time.monotonic() - report.began > 60 * arguments.minutes
        enough = len(report.outcomes) == arguments.rounds
        return over or enough or (report.violations > 0 and not arguments.go_on)

    try:
        with world(find()) as made:
            try:
                with contextlib.suppress(KeyboardInterrupt):
                    play(made, plan, done)
            except AdminError:
                _keep_logs(made, arguments.out)
                raise
            finally:
                _conclude(made, report, arguments.out)
    except AdminError as error:
        click.echo(f"chaos: {error}", err=True)
        return 1
    return int(report.violations > 0)


def _conclude(made: World, report: Report, out: Path) -> None:
    page = report.markdown(made.transactions, made.invariants)
    (out / "report.md").write_text(page)
    click.echo(page)
    if report.violations:
        _keep_logs(made, out)


def _keep_logs(made: World, out: Path) -> None:
    shutil.rmtree(out / "logs", ignore_errors=True)
    kept = shutil.ignore_patterns("*.sock", "*.key", "ping-*")
    shutil.copytree(made.lab.run.home, out / "logs", ignore=kept)


if __name__ == "__main__":
    sys.exit(main())
