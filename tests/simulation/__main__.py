"""Many seeded runs against the adversary (`python -m tests.simulation`); 1 if a promise was broken."""

import argparse
import sys
from collections import Counter
from random import Random

from structlog.testing import capture_logs
from tests.simulation.loop import simulate
from tests.simulation.world import World


def world_of(seed: int) -> World:
    """Any number of endpoints from 1 to 5, any quorum from 1 to 3, and fewer liars than that."""
    random = Random(seed)
    endpoints = random.randint(1, 5)
    needed = random.randint(1, min(3, endpoints))
    liars = random.choice([0, needed - 1, needed - 1])
    return World(seed, endpoints, needed, liars)


def run(seed: int) -> World:
    """One run, to its end, without its logs."""
    world = world_of(seed)
    with capture_logs():
        simulate(world.run())
    return world


def main() -> int:
    """Run and report."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    options = parser.parse_args()
    worst, kinds, broken = dict[str, float](), Counter[tuple[int, int, int]](), 0
    for seed in range(options.first, options.first + options.runs):
        world = run(seed)
        kinds[world.endpoints, world.needed, world.liars] += 1
        for what, seconds in world.worst.items():
            worst[what] = max(worst.get(what, 0.0), seconds)
        if world.problems:
            broken += 1
            sys.stdout.write(f"seed {seed}: {world.problems[0]}\n")
    longest = ", ".join(f"{what} {seconds:.1f} s" for what, seconds in sorted(worst.items()))
    sys.stdout.write(f"{options.runs} runs of {len(kinds)} kinds, {broken} broken; at worst: {longest}\n")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
