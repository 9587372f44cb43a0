"""Pass mutations of a corpus to each decoder. The same seed gives the same inputs.

`python -m tests.fuzz.driver --runs 1000000` starts a process for each decoder, so that its memory
can be measured. It prints a line for each decoder, and exits with 1 if there are findings.
`--only NAME` is the command of such a process.
"""

import argparse
import faulthandler
import gc
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.fuzz.decoders import DECODERS, Decoder
from tests.fuzz.mutate import mutations

CORPUS: Final = Path(__file__).parent / "corpus"
SLOW: Final = 1.0
"""The maximum processor time of one input, in seconds."""
GROWTH: Final = 4096
"""The maximum growth of resident memory in the last nine tenths of a run, in KiB."""
_KEPT: Final = 10
_SHOWN: Final = 4000
"""The number of printed digits of an input. The input's number gives the whole input again."""
_TICK: Final = 10_000
"""Inputs between progress reports."""
_STUCK: Final = 300
"""Seconds without a progress report after which the process prints its stack and exits."""
_RED, _GREEN, _PLAIN = "\x1b[31m", "\x1b[32m", "\x1b[0m"


@dataclass(slots=True)
class Result:
    """The result of a run of one decoder."""

    inputs: int = 0
    accepted: int = 0
    """The inputs that were decoded to a value."""
    seconds: float = 0.0
    """Processor time, including the mutator's."""
    growth: int = 0
    """The growth of the resident memory after the first tenth of the run, in KiB."""
    findings: list[str] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        """Return whether the run has findings, or too much growth."""
        return bool(self.findings) or self.growth > GROWTH

    def line(self, name: str) -> str:
        """Return the row of the table."""
        rate = self.inputs / max(self.seconds, 1e-9)
        share = 100 * self.accepted / max(self.inputs, 1)
        found = len(self.findings) + (self.growth > GROWTH)
        counts = f"{name:14} {self.inputs:9,} {rate:8,.0f}/s {share:5.1f} % accepted"
        return f"{counts} {self.growth:+6,} KiB {found} findings"


def corpus(name: str) -> list[bytes]:
    """Return a decoder's seeds, from lines of hexadecimal digits."""
    return [bytes.fromhex(line) for line in (CORPUS / f"{name}.hex").read_text("ascii").split()]


def run(name: str, runs: int, seed: int, tick: Callable[[int], None] = lambda inputs: None) -> Result:
    """Pass ``runs`` inputs to a decoder; call ``tick`` with their number regularly."""
    decoder, result, began = DECODERS[name], Result(), time.process_time()
    inputs, settled = mutations(corpus(name), seed), resident()
    while result.inputs < runs and len(result.findings) < _KEPT:
        if result.inputs == runs // 10:
            settled = resident()
        if result.inputs % _TICK == 0:
            tick(result.inputs)
        data = next(inputs)
        accepted, problem = _feed(decoder, data)
        if problem:
            result.findings.append(f"{problem}: input {result.inputs}: {data.hex()[:_SHOWN]}")
        result.accepted += accepted
        result.inputs += 1
    result.seconds = time.process_time() - began
    result.growth = resident() - settled
    return result


def resident() -> int:
    """Return this process's resident memory in KiB, after a garbage collection."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 1024


def _feed(decoder: Decoder, data: bytes) -> tuple[bool, str | None]:
    """Return whether an input was accepted, and the problem, if any."""
    began, accepted = time.process_time(), False
    try:
        accepted = decoder.feed(data) is not None
    except decoder.errors:
        pass
    except Exception as error:  # noqa: BLE001 - all other errors are findings
        return False, f"{type(error).__name__}: {str(error)[:80]}"
    return accepted, "slow" if time.process_time() - began > SLOW else None


def _run_here(name: str, runs: int, seed: int) -> bool:
    """Run one decoder in this process; return whether it failed."""
    terminal = sys.stdout.isatty()

    def tick(inputs: int) -> None:
        faulthandler.dump_traceback_later(_STUCK, exit=True)
        if terminal:
            sys.stdout.write(f"\r{name:14} {inputs:9,} of {runs:,} ")
            sys.stdout.flush()

    faulthandler.enable()
    result = run(name, runs, seed, tick)
    faulthandler.cancel_dump_traceback_later()
    line = result.line(name)
    if terminal:
        line = f"\r{_RED if result.failed else _GREEN}{line}{_PLAIN}"
    sys.stdout.write("\n    ".join([line, *result.findings]) + "\n")
    return result.failed


def _run_apart(name: str, runs: int, seed: int) -> bool:
    """Run one decoder in a separate process; return whether it failed, or ended by a signal."""
    arguments = ["--runs", str(runs), "--seed", str(seed), "--only", name]
    code = subprocess.run([sys.executable, "-m", "tests.fuzz.driver", *arguments], check=False).returncode
    if code not in {0, 1}:
        sys.stdout.write(f"\n{name:14} ended with {code}: the decoder crashed the process\n")
        sys.stdout.flush()
    return code != 0


def main() -> int:
    """Run the selected decoders, or all; return the exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=DECODERS, action="append")
    arguments = parser.parse_args()
    names = arguments.only or list(DECODERS)
    work = _run_here if len(names) == 1 else _run_apart
    return int(sum(work(name, arguments.runs, arguments.seed) for name in names) > 0)


if __name__ == "__main__":
    sys.exit(main())
