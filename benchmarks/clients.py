"""Plain clients: from a client's revocation to the device, memory, and bystanders' losses.

`revocation` measures from the frame of a revocation's log until wireguard-go has acknowledged the
change: on the client's gateway, which removes a peer, and on another member, which removes the
client's addresses from the gateway's peer. `many` reports the memory of a gateway with 1,000
clients. `bystander` counts the packets that two members lose while clients of one of them come and
go.
"""

import asyncio
import re
from contextlib import AsyncExitStack
from typing import Any, Final

from tests.anvil import key_of
from tests.fake_chain import FakeServer, registry, serve
from tests.fake_chain.registry import Token

from benchmarks.disturbance import _start
from benchmarks.events import _named, _stamp
from benchmarks.harness import new_key, quiet_namespace, running_daemon, summary
from benchmarks.policy import Pair
from dstack_vpn.core.wireguard.keys import PrivateKey
from dstack_vpn.core.wireguard.x25519 import derive

MEMBERS: Final = 100
REVOCATIONS: Final = 200
CLIENTS: Final = 2 * REVOCATIONS
"""So many that the mass removal guard, which has removals confirmed by a second reading of the
chain, delays no revocation: it applies to more than half of a gateway's peers."""
PACE: Final = 0.05
"""Seconds between changes."""
GATEWAY: Final = 1
"""The mask of the tag."""
CHANGES: Final = 1000
CHANGE_PACE: Final = 0.05


async def revocation(*, on_gateway: bool, clients: int = CLIENTS) -> dict[str, Any]:
    """Measure revocations of clients on a node with 100 other members."""
    with quiet_namespace() as home:
        async with serve() as server:
            key = new_key()
            await _fill(server, key, clients, on_gateway=on_gateway)
            settings = {"RPC_URL": server.ws, "SYNC_INTERVAL": "3600s"}
            async with running_daemon(home, key, **settings) as daemon:
                peers = MEMBERS + (clients if on_gateway else 0)
                await daemon.wait(lambda e: e["event"] == "peers.changed" and e["set"] == peers)
                await asyncio.sleep(3.0)
                memory, sent, seconds = daemon.memory(), _stamp(server), list[float]()
                changed = _named("peer.removed" if on_gateway else "peer.set")
                for number in range(REVOCATIONS):
                    since = len(daemon.entries)
                    await server.chain.revoke(MEMBERS + 2 + number)
                    entry = await daemon.wait(changed, since)
                    seconds.append(entry["at"] - sent[-1])
                    await asyncio.sleep(PACE)
                figures = summary(seconds)
                return {"members": MEMBERS, "clients": clients, **figures, "memory_mb": memory}


async def _fill(server: FakeServer, key: PrivateKey, clients: int, *, on_gateway: bool) -> None:
    """Register this node, 100 others, and clients of this node or of the first other."""
    await server.chain.mine(registry.define_tag(0, "gateway"))
    owner = server.chain.accounts[1]
    tokens = {1: Token(1, owner, "node-us", str(derive(key)), tags=GATEWAY)}
    for number in range(MEMBERS):
        tokens[number + 2] = Token(number + 2, owner, f"node-{number}", str(key_of(number)), tags=GATEWAY)
    via = "via:node-us" if on_gateway else "via:node-0"
    for number in range(MEMBERS, MEMBERS + clients):
        tokens[number + 2] = Token(number + 2, owner, f"phone-{number}", str(key_of(number)), via)
    server.chain.blocks[-1].tokens.update(tokens)


async def bystander() -> dict[str, Any]:
    """Count the lost packets of two members over 1,000 changes of one member's clients."""
    async with AsyncExitStack() as stack:
        pair = await Pair.make(stack)
        chain = pair.server.chain
        await chain.mine(registry.define_tag(2, "gateway"))
        await chain.mine(registry.set_tags(2, 4))
        seconds = CHANGES * CHANGE_PACE + 5
        ping = await _start(
            pair.a, "ping", "-q", "-i", "0.01", "-c", str(int(seconds * 100)), "-W", "1", pair.target
        )
        before = [len(daemon.entries) for daemon in pair.daemons]
        for turn in range(CHANGES // 2):
            token = 3 + turn
            mint = registry.mint(chain.accounts[1], f"phone-{turn}", str(key_of(turn)), "")
            await chain.mine(mint, registry.set_endpoint(token, "via:node-2"))
            await asyncio.sleep(CHANGE_PACE)
            await chain.revoke(token)
            await asyncio.sleep(CHANGE_PACE)
        output, _ = await ping.communicate()
        found = re.search(r"(\d+) packets transmitted, (\d+) received", output.decode())
        assert found is not None, output
        made = [
            sum(entry["event"] in {"peer.set", "peer.removed"} for entry in daemon.entries[since:])
            for daemon, since in zip(pair.daemons, before, strict=True)
        ]
        sent, received = int(found[1]), int(found[2])
        return {"changes": CHANGES, "changes_of_peers": made, "sent": sent, "lost": sent - received}


ALL: Final = {
    "clients-revocation-gateway": lambda: revocation(on_gateway=True),
    "clients-revocation-member": lambda: revocation(on_gateway=False),
    "clients-1000": lambda: revocation(on_gateway=True, clients=1000),
    "clients-bystander": bystander,
}
