"""Apply random faults until the time is over or an invariant is violated (`make chaos`).

Run `python -m tests.chaos --minutes 60 --seed 1`. The same seed gives the same rounds, and
``--first`` begins with a later one. If an invariant is violated, the exit code is 1, and all logs
are kept next to the report.
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
    """Run the rounds that the arguments select; return the exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=1, help="the first round to run")
    parser.add_argument("--rounds", type=int, help="the maximum number of rounds")
    parser.add_argument("--only", action="append", help="use only faults whose name contains this")
    parser.add_argument("--pace", type=float, default=1.0, help="a factor that shortens the faults")
    parser.add_argument("--go-on", action="store_true", help="continue after a violation")
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
        click.echo("NO LIBFAKETIME: clock jumps are skipped; run 'apt install faketime'", err=True)
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
