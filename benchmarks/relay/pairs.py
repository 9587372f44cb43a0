"""The load generator on a pair of relays, and the summary of its rounds."""

import contextlib
import json
import shutil
import socket
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tests.integration.relay.programs import NO_MULLVAD, Kind, Program, mullvad_is_there, pair

from benchmarks.harness import NotMeasurableError

Figures = dict[str, Any]

LOAD: Final = Path(__file__).parents[2] / ".cache" / "bin" / "relay-load"
SOURCE: Final = Path(__file__).with_name("load.c")


def build() -> Path:
    """Return the load generator, compiled if needed; raises `NotMeasurableError` without cc."""
    if shutil.which("cc") is None:
        raise NotMeasurableError("the C compiler (cc) for the load generator is missing; install gcc")
    if not LOAD.exists() or LOAD.stat().st_mtime < SOURCE.stat().st_mtime:
        LOAD.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cc", "-O2", "-Wall", "-o", LOAD, SOURCE], check=True)
    return LOAD


def needs_mullvad() -> None:
    """Raise `NotMeasurableError` if Mullvad's programs are missing."""
    if not mullvad_is_there():
        raise NotMeasurableError(NO_MULLVAD)


@contextlib.contextmanager
def loaded_pair(kind: Kind) -> Iterator[Callable[..., Figures]]:
    """Start a new pair on loopback; yield a function that runs the load generator on it once.

    The pair must be new, because Mullvad's udp2tcp serves only its first source.
    """
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        near, far = (stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in "nf")
        far.bind(("127.0.0.1", 0))
        programs = stack.enter_context(pair(kind, kind, far.getsockname(), folder))
        assert programs[0].address is not None
        near.connect(programs[0].address)
        yield lambda *arguments: _load(near, far, programs, *arguments)


def _load(
    near: socket.socket, far: socket.socket, programs: Sequence[Program], mode: str, *options: str
) -> Figures:
    command = [str(build()), mode, str(near.fileno()), str(far.fileno()), *options]
    if mode == "flood":
        command += [word for program in programs for word in ("--pid", str(program.process.pid))]
    done = subprocess.run(
        command, pass_fds=(near.fileno(), far.fileno()), capture_output=True, text=True, check=False
    )
    if done.returncode:
        output = "\n".join(program.said.read_text()[-2000:] for program in programs)
        raise RuntimeError(f"{' '.join(command)}: {done.stderr}\n{output}")
    figures: Figures = json.loads(done.stdout)
    return figures


def rounds(count: int, contenders: Mapping[str, Callable[[], Figures]]) -> dict[str, list[Figures]]:
    """Return each contender's figures. They take turns, in reverse order every other round."""
    taken: dict[str, list[Figures]] = {name: [] for name in contenders}
    for number in range(count):
        for name in list(contenders)[:: -1 if number % 2 else 1]:
            taken[name].append(contenders[name]())
    return taken


def medians(taken: Sequence[Figures], sums: Sequence[str] = ()) -> Figures:
    """Return the median of each figure over the rounds, and the sum of those in ``sums``."""
    return {
        name: sum(figures[name] for figures in taken)
        if name in sums
        else rounded(statistics.median(figures[name] for figures in taken))
        for name in taken[0]
    }


def ratio(ours: Sequence[Figures], theirs: Sequence[Figures], name: str) -> dict[str, float]:
    """Return the median and the extremes of the rounds' ratios of ours to theirs."""
    ratios = [mine[name] / other[name] for mine, other in zip(ours, theirs, strict=True) if other[name]]
    if not ratios:
        return {}
    return {
        "median": rounded(statistics.median(ratios)),
        "min": rounded(min(ratios)),
        "max": rounded(max(ratios)),
    }


def rounded(value: float) -> float:
    """Round to four significant digits."""
    return float(f"{value:.4g}")


def shown(ratio: Mapping[str, float]) -> str:
    """Format a ratio for a table."""
    return "{median:.2f}x [{min:.2f}-{max:.2f}]".format_map(ratio) if ratio else "-"


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table."""
    lines = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    print(f"\n{title}")
    for line in lines:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    print(flush=True)
