"""The adversary against the real daemon and wireguard-go, in real time.

The chain has three endpoints, and the quorum is two. The adversary controls the endpoint that the
daemon follows first. Each siege is one of its moves against a new daemon, which has not quarantined
the endpoint yet. `python -m tests.simulation.live` prints the times of revocations by move, and
exits with 1 on a violation.
"""

import argparse
import asyncio
import itertools
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from random import Random
from typing import Any, Final

from benchmarks.harness import Daemon, new_key, quiet_namespace, running_daemon, summary
from tests.anvil import key_of
from tests.fake_chain import FakeServer, registry, serve
from tests.fake_chain.faults import Fault

RESYNC: Final = 2.0
"""Seconds between resyncs."""
BOUND: Final = RESYNC + 3.0
"""The limit for a revocation, in seconds. Both honest endpoints reply within one second."""
MEMBERS: Final = 8
SIEGE: Final = 45.0
"""The length of a siege in seconds."""
QUIET: Final = 3.0
"""Seconds before the move."""
FORGED: Final = 66

Move = Callable[["Siege"], Awaitable[None]]


class Siege:
    """The chain, its endpoints, and the observations of the daemon."""

    def __init__(self, random: Random, servers: list[FakeServer], move: str) -> None:
        self.random, self.servers = random, servers
        self.chain, self.hostile = servers[0].chain, servers[0]
        self.move = move
        self.peers: set[str] = set()
        self.taken: list[float] = []
        """The times of the revocations, in seconds."""
        self.problems: list[str] = []
        self._out: dict[str, float] = {}
        """The revoked keys that are still peers, and the times of their revocations."""
        self._ever: set[str] = set()
        self._next = MEMBERS

    # -- the chain ---------------------------------------------------------------------------------

    async def live(self, ends: float) -> None:
        """Mine blocks with grants and revocations."""
        while time.monotonic() < ends:
            await asyncio.sleep(self.random.uniform(0.2, 1.0))
            alive = {t: x for t, x in self.chain.head.tokens.items() if not x.revoked}
            if self.random.random() < 0.4:
                await self.chain.mine()
            elif len(alive) < MEMBERS:
                self._ever.add(str(key_of(self._next)))
                await self.chain.mint(self._next)
                self._next += 1
            else:
                token = self.random.choice(list(alive))
                self._revoked(str(alive[token].key))
                await self.chain.revoke(token)

    def _revoked(self, key: str) -> None:
        if key in self.peers:
            self._out[key] = time.monotonic()

    # -- the adversary -----------------------------------------------------------------------------

    async def scheme(self, ends: float) -> None:
        """Make the move after `QUIET` seconds, and keep it up."""
        await asyncio.sleep(QUIET)
        await MOVES[self.move](self)
        while time.monotonic() < ends:
            await asyncio.sleep(0.5)
            if self.move == "lets no sync end":
                await self.hostile.push("newHeads", self.chain.head.header())

    def hide(self) -> None:
        """Show the present state from now on."""
        before = dict(self.chain.head.tokens)
        self.hostile.faults.lies.state = lambda tokens, number: before
        self.hostile.faults.lies.hides = lambda log: True

    # -- the invariants ----------------------------------------------------------------------------

    async def watch(self, daemon: Daemon, ends: float) -> None:
        """Read the daemon's log, and compare its peers with the chain."""
        seen = 0
        while time.monotonic() < ends:
            await asyncio.sleep(0.02)
            for entry in daemon.entries[seen:]:
                self._take(entry)
            seen = len(daemon.entries)
            for key, since in list(self._out.items()):
                if time.monotonic() - since > BOUND:
                    self.problems.append(f"{key} is a peer {BOUND} s after it was revoked: {self.move}")
                    del self._out[key]

    def _take(self, entry: dict[str, Any]) -> None:
        if entry["event"] == "peer.set":
            self.peers.add(entry["peer"])
            if entry["peer"] not in self._ever:
                self.problems.append(f"{entry['peer']} was granted, but was never a member: {self.move}")
        elif entry["event"] == "peer.removed":
            self.peers.discard(entry["peer"])
            if entry["peer"] in self._out:
                self.taken.append(time.monotonic() - self._out.pop(entry["peer"]))
        elif entry["event"] == "chain.quarantined" and entry["endpoint"] != self.hostile.ws:
            self.problems.append(f"{entry['endpoint']} is honest, but in quarantine: {entry['reason']}")

    async def begin(self, daemon: Daemon) -> None:
        """Mint the first members, and wait for the daemon."""
        for number in range(MEMBERS):
            self._ever.add(str(key_of(number)))
            await self.chain.mint(number)
        await daemon.wait(lambda e: e["event"] == "device.up")


async def _be_honest(siege: Siege) -> None:
    pass


async def _hide(siege: Siege) -> None:
    siege.hide()


async def _hide_and_stall(siege: Siege) -> None:
    siege.hide()
    siege.hostile.faults.by_method["eth_call"] = Fault(stall=True)


async def _let_no_sync_end(siege: Siege) -> None:
    siege.hide()
    siege.hostile.faults.silent = True
    siege.hostile.faults.by_method["eth_getLogs"] = Fault(stall=True)


async def _freeze(siege: Siege) -> None:
    siege.hostile.faults.lies.stuck_at = siege.chain.head.number


async def _go_silent(siege: Siege) -> None:
    siege.hostile.faults.silent = True
    siege.hostile.faults.by_method["*"] = Fault(stall=True)


async def _forge_a_grant(siege: Siege) -> None:
    await siege.hostile.forge(registry.mint(siege.chain.accounts[1], "forged", str(key_of(FORGED))))


async def _disconnect(siege: Siege) -> None:
    siege.hide()
    await siege.hostile.drop_sockets()


MOVES: Final[dict[str, Move]] = {
    "honest": _be_honest,
    "hides": _hide,
    "hides and stalls its resync": _hide_and_stall,
    "lets no sync end": _let_no_sync_end,
    "stays at its head": _freeze,
    "goes silent": _go_silent,
    "forges a grant": _forge_a_grant,
    "disconnects and hides": _disconnect,
}


async def besiege(random: Random, move: str) -> Siege:
    """Run one siege."""
    with quiet_namespace() as home:
        async with AsyncExitStack() as stack:
            first = await stack.enter_async_context(serve())
            others = [await stack.enter_async_context(serve(first.chain)) for _ in range(2)]
            siege = Siege(random, [first, *others], move)

            async def announce(kind: str, items: Sequence[dict[str, Any]]) -> None:
                for server in siege.servers:
                    await server._announce(kind, items)

            siege.chain.announce = announce
            urls = ",".join(server.ws for server in siege.servers)
            settings = {"RPC_URL": urls, "RPC_QUORUM": "2", "SYNC_INTERVAL": f"{RESYNC:.0f}s"}
            settings["CONTRACT_ADDRESS"] = siege.chain.contract
            async with running_daemon(home, new_key(), **settings) as daemon:
                await siege.begin(daemon)
                ends = time.monotonic() + SIEGE
                async with asyncio.TaskGroup() as group:
                    for task in (siege.live(ends), siege.scheme(ends), siege.watch(daemon, ends)):
                        group.create_task(task)
            return siege


def main() -> int:
    """Run sieges, and print the times and the violations; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.live", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    random, ends = Random(options.seed), time.monotonic() + options.minutes * 60
    taken: dict[str, list[float]] = {move: [] for move in MOVES}
    problems: list[str] = []
    for move in itertools.cycle(MOVES):
        if time.monotonic() >= ends:
            break
        siege = asyncio.run(besiege(random, move))
        taken[move] += siege.taken
        problems += siege.problems
    for move, seconds in taken.items():
        sys.stdout.write(f"{move:28} {summary(seconds) if seconds else 'none'}\n")
    for problem in problems:
        sys.stdout.write(f"{problem}\n")
    sys.stdout.write(f"{sum(map(len, taken.values()))} revocations, {len(problems)} violations\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
