"""Feeds mutations of a corpus to each decoder; the same seed gives the same inputs.

`python -m tests.fuzz.driver --runs 1000000` prints a line a decoder and ends with 1 if something is found.
"""

import argparse
import random
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.fuzz.decoders import DECODERS, Decoder

CORPUS: Final = Path(__file__).parent / "corpus"
SLOW: Final = 1.0
"""Seconds of processor time that no input may take."""
_KEPT: Final = 10


@dataclass(slots=True)
class Result:
    """What came of feeding one decoder."""

    inputs: int = 0
    seconds: float = 0.0
    growth: int = 0
    """KiB by which the process' peak memory grew after the first tenth."""
    findings: list[str] = field(default_factory=list)


def corpus(name: str) -> list[bytes]:
    """The decoder's seeds, one a line, in hexadecimal digits."""
    return [bytes.fromhex(line) for line in (CORPUS / f"{name}.hex").read_text("ascii").split()]


def mutations(seeds: Sequence[bytes], seed: int) -> Iterator[bytes]:
    """Endless inputs: one of the seeds with one to four changes."""
    dice = random.Random(seed)
    while True:
        data = bytearray(dice.choice(seeds))
        for _ in range(dice.randint(1, 4)):
            _mutate(data, seeds, dice)
        yield bytes(data)


def _mutate(data: bytearray, seeds: Sequence[bytes], dice: random.Random) -> None:
    at, kind = dice.randint(0, len(data)), dice.randrange(5)
    if kind == 0 and at < len(data):
        data[at] = dice.randrange(256)
    elif kind == 1:
        del data[at : at + dice.randint(1, 16)]
    elif kind == 2:
        data[at:at] = dice.randbytes(dice.randint(1, 8))
    elif kind == 3:
        data[at:at] = data[at : at + dice.randint(1, 64)]
    else:
        other = dice.choice(seeds)
        data[at:] = other[dice.randint(0, len(other)) :]


def run(name: str, runs: int, seed: int) -> Result:
    """Feed that many inputs to a decoder."""
    decoder, result, began = DECODERS[name], Result(), time.process_time()
    settled = 0
    for number, data in enumerate(mutations(corpus(name), seed)):
        if number == runs or len(result.findings) == _KEPT:
            break
        if number == runs // 10:
            settled = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        problem = _feed(decoder, data)
        if problem:
            result.findings.append(f"{problem}: {data.hex()}")
        result.inputs += 1
    result.seconds = time.process_time() - began
    result.growth = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - settled
    return result


def _feed(decoder: Decoder, data: bytes) -> str | None:
    began = time.process_time()
    try:
        decoder.feed(data)
    except decoder.errors:
        pass
    except Exception as error:  # noqa: BLE001 - whatever else escapes is what we look for
        return type(error).__name__
    return "slow" if time.process_time() - began > SLOW else None


def main() -> int:
    """Run what the arguments say."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=DECODERS, action="append")
    arguments = parser.parse_args()
    failed = False
    for name in arguments.only or DECODERS:
        result = run(name, arguments.runs, arguments.seed)
        rate = result.inputs / max(result.seconds, 1e-9)
        found = len(result.findings)
        line = f"{name:14} {result.inputs:9,} {rate:9,.0f}/s {found} findings +{result.growth} KiB"
        sys.stdout.write("\n    ".join([line, *result.findings]) + "\n")
        sys.stdout.flush()
        failed = failed or bool(result.findings)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
