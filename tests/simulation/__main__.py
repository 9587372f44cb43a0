"""Seeded runs against the adversary (`python -m tests.simulation`); exits with 1 on a violation."""

import argparse
import sys
from collections import Counter
from random import Random

from structlog.testing import capture_logs
from tests.simulation.loop import simulate
from tests.simulation.world import World


def world_of(seed: int) -> World:
    """Return a world of 1 to 5 endpoints, a quorum of 1 to 3, and fewer hostile endpoints.

    Every second seed has a contract without a revision.
    """
    random = Random(seed)
    endpoints = random.randint(1, 5)
    needed = random.randint(1, min(3, endpoints))
    hostile = random.choice([0, needed - 1, needed - 1])
    return World(seed, endpoints, needed, hostile, roots=seed % 2 == 1)


def run(seed: int) -> World:
    """Run one world to its end, without logs."""
    world = world_of(seed)
    with capture_logs():
        simulate(world.run())
    return world


def main() -> int:
    """Run the seeds, and print the violations and the maxima; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    options = parser.parse_args()
    worst, kinds, violated = dict[str, float](), Counter[tuple[int, int, int]](), 0
    for seed in range(options.first, options.first + options.runs):
        world = run(seed)
        kinds[world.endpoints, world.needed, world.hostile] += 1
        for name, seconds in world.worst.items():
            worst[name] = max(worst.get(name, 0.0), seconds)
        if world.problems:
            violated += 1
            sys.stdout.write(f"seed {seed}: {world.problems[0]}\n")
    longest = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in sorted(worst.items()))
    counts = f"{options.runs} runs of {len(kinds)} kinds, {violated} with violations"
    sys.stdout.write(f"{counts}; maximum: {longest}\n")
    return 1 if violated else 0


if __name__ == "__main__":
    sys.exit(main())
