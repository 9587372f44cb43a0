"""Comparison of kinds of traffic within one long stream.

A machine's speed drifts within seconds, and a new connection starts slowly. Therefore one stream
runs all the time while the kinds change, and each segment of another kind is compared with its two
neighbours of the first kind.
"""

import random
import re
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple

from tests.netns_support import Namespace

from benchmarks.harness import median_of

SETTLE: Final = 0.25
"""Seconds after a change that do not count."""


class Segment(NamedTuple):
    """A part of a stream."""

    kind: str
    value: float
    """Mbit/s, or milliseconds."""


def schedule(kinds: Sequence[str], count: int) -> list[str]:
    """Return the kinds of the segments: the first kind between each two others, in random order.

    Each of the others comes ``count`` times.
    """
    others = list(kinds[1:]) * count
    random.Random(1).shuffle(others)
    return [kinds[0], *(each for other in others for each in (other, kinds[0]))]


def summary(segments: Sequence[Segment]) -> dict[str, dict[str, list[float]]]:
    """Return the medians and their 95 % confidence: of the values, and of the ratios by kind."""
    values: dict[str, list[float]] = {}
    ratios: dict[str, list[float]] = {}
    for number, segment in enumerate(segments):
        values.setdefault(segment.kind, []).append(segment.value)
        if number % 2:
            around = (segments[number - 1].value + segments[number + 1].value) / 2
            ratios.setdefault(segment.kind, []).append(segment.value / around)
    return {
        "median": {kind: median_of(found) for kind, found in sorted(values.items())},
        "ratio": {kind: median_of(found) for kind, found in sorted(ratios.items())},
    }


def received(space: Namespace, interface: str = "wg0") -> tuple[float, int]:
    """Return the time in seconds, and the bytes that an interface has received until then."""
    with space.entered():
        lines = Path("/proc/thread-self/net/dev").read_text()
        now = time.perf_counter()
    found = re.search(rf"^\s*{interface}:\s*(\d+)", lines, re.MULTILINE)
    assert found is not None, f"{interface} is missing"
    return now, int(found[1])


def rate(before: tuple[float, int], after: tuple[float, int]) -> float:
    """Return the Mbit/s between two calls of `received`."""
    assert after[1] > before[1], "the stream has ended"
    return (after[1] - before[1]) * 8e-6 / (after[0] - before[0])


def round_trip(output: str) -> float:
    """Return the median round trip (ms) of what ping has printed."""
    return median(map(float, re.findall(r" time=([\d.]+) ms", output)))
