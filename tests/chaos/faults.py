"""Begin and end each planned fault."""

import base64
import contextlib
import json
import os
import random
import re
import secrets
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from demo.namespaces import wait_until
from demo.node import INTERFACE, WIREGUARD_PORT, LabNode, new_key
from tests.chaos import gateway
from tests.chaos.plan import EVERYWHERE, Fault, Kind
from tests.chaos.world import TABLE, World

from dstack_vpn.core.wireguard.x25519 import derive

Heal = Callable[[], None]
DEEPEST: Final = 64
"""The depth of the deepest reorg, in blocks."""
_STRANGER: Final = "10.77.200.1/32"
_ELSEWHERE: Final = "10.77.201.1/32"
_JUMPS: Final = ("+3600s", "-3600s", "+86400s", "-86400s", "+2592000s", "+5s", "-5s")


def begin(world: World, fault: Fault) -> Heal:
    """Begin a fault; return a function that ends it."""
    name = fault.kind.name
    if name.startswith("rpc "):
        return _rpc(world, fault, name.removeprefix("rpc "))
    if fault.target == EVERYWHERE:
        return _FOR_ALL[name](world, fault.strength)
    return _FOR_ONE[name](world, world.nodes[fault.target], fault.strength)


def begins(kind: Kind) -> bool:
    """Return whether this module can begin faults of this kind."""
    known = _FOR_ALL if kind.targets == EVERYWHERE else _FOR_ONE
    return kind.name.removeprefix("rpc ") in gateway.FAULTS or kind.name in known


def _nothing() -> None:
    pass


def _none(world: World, node: LabNode, strength: float) -> Heal:
    return _nothing


# -- endpoints -------------------------------------------------------------------------------------


def _rpc(world: World, fault: Fault, name: str) -> Heal:
    """Begin a fault at the endpoint in use, or at all endpoints of the node."""
    node = world.nodes[fault.target]
    head = int(world.lab.chain.rpc("eth_blockNumber"), 16)
    # If all its endpoints served another chain, the node would avoid all of them for a minute.
    used = fault.strength < 0.6 or name == "serves another chain"
    world.order(node, name, used=used, at=max(1, head - 1 - int(fault.strength * 100)))
    return lambda: world.order(node, None)


# -- processes -------------------------------------------------------------------------------------


def _daemon_killed(world: World, node: LabNode, strength: float) -> Heal:
    node.stop(signal.SIGKILL)
    return lambda: world.start(node)


def _daemon_suspended(world: World, node: LabNode, strength: float) -> Heal:
    node.signal(signal.SIGSTOP)
    return lambda: node.signal(signal.SIGCONT)


def _device(node: LabNode) -> int:
    wait_until(lambda: node.namespace.pid_of("wireguard-go"), f"{node.name} has a device")
    pid = node.namespace.pid_of("wireguard-go")
    assert pid is not None
    return pid


def _device_killed(world: World, node: LabNode, strength: float) -> Heal:
    os.kill(_device(node), signal.SIGKILL)
    return _nothing


def _device_suspended(world: World, node: LabNode, strength: float) -> Heal:
    pid = _device(node)
    world.observer.blind(node.name, blind=True)
    os.kill(pid, signal.SIGSTOP)

    def heal() -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
        world.observer.blind(node.name, blind=False)

    return heal


def _both_killed(world: World, node: LabNode, strength: float) -> Heal:
    pid = _device(node)
    node.stop(signal.SIGKILL)
    os.kill(pid, signal.SIGKILL)
    return lambda: world.start(node)


def _relay_killed(world: World, node: LabNode, strength: float) -> Heal:
    world.kill_relay()
    return world.start_relay


# -- the chain -------------------------------------------------------------------------------------


def _chain_killed(world: World, strength: float) -> Heal:
    """Kill anvil; it restarts with its last written state, which may lack some blocks."""
    return _set_back(world, _written(world))


def _chain_older(world: World, strength: float) -> Heal:
    """Remove blocks that all nodes have seen; other blocks replace them."""
    state = _written(world)
    for _ in range(1 + int(strength * 20)):
        world.lab.chain.rpc("evm_mine")
    return _set_back(world, state)


def _set_back(world: World, state: dict[str, Any]) -> Heal:
    """Kill anvil; to heal, start it with an earlier state.

    The chain then grows beyond its previous height, as chains do. Until then, a node that has just
    started cannot distinguish a chain that was reset from one that lags (docs/architecture.md,
    limits).
    """
    chain = world.lab.chain
    height = int(chain.rpc("eth_blockNumber"), 16)
    chain.signal(signal.SIGKILL)

    def heal() -> None:
        _start_chain(world, state)
        chain.rpc("anvil_mine", hex(max(1, height + 1 - world.begun_at)))

    return heal


def _chain_suspended(world: World, strength: float) -> Heal:
    world.lab.chain.signal(signal.SIGSTOP)
    return lambda: world.lab.chain.signal(signal.SIGCONT)


def _written(world: World) -> dict[str, Any]:
    """Return the state that anvil wrote last; wait if it is writing."""
    found: list[dict[str, Any]] = []

    def complete() -> bool:
        with contextlib.suppress(ValueError, FileNotFoundError):
            found.append(json.loads((world.lab.chain.home / "state.json").read_bytes()))
        return bool(found)

    wait_until(complete, "anvil has written its state", 20)
    return found[0]


def _start_chain(world: World, state: dict[str, Any]) -> None:
    """Start anvil with a state.

    Each start of anvil adds another block 0; only the oldest belongs to the chain.
    """
    first = [block for block in state["blocks"] if int(block["header"]["number"], 16) == 0]
    others = [block for block in state["blocks"] if block not in first]
    first.sort(key=lambda block: int(block["header"]["timestamp"], 16))
    file = world.lab.chain.home / "state.json"
    file.write_text(json.dumps({**state, "blocks": first[:1] + others}))
    world.lab.chain.start()
    world.begun_at = int(world.lab.chain.rpc("eth_blockNumber"), 16)


def _reorg(world: World, strength: float) -> Heal:
    """Cause a reorg of the planned depth.

    Anvil cannot undo blocks from before its last start, so this first mines the missing blocks.
    """
    chain, depth = world.lab.chain, 1 + int(strength * DEEPEST)
    missing = depth - (int(chain.rpc("eth_blockNumber"), 16) - world.begun_at)
    if missing > 0:
        chain.rpc("anvil_mine", hex(missing))
    chain.reorg(depth)
    return _nothing


# -- the machine -----------------------------------------------------------------------------------


def _disk_full(world: World, node: LabNode, strength: float) -> Heal:
    filler = node.home / "state" / "filler"
    with node.namespace.entered(), contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    return lambda: _remove(node, filler)


def _remove(node: LabNode, path: Path) -> None:
    with node.namespace.entered():
        path.unlink(missing_ok=True)


def _store_corrupted(world: World, node: LabNode, strength: float) -> Heal:
    """Corrupt the store: overwrite pieces, and truncate, empty or replace the file."""
    node.stop(signal.SIGKILL)
    dice = random.Random(strength)
    with node.namespace.entered():
        for path in sorted((node.home / "state").glob("*.sqlite")):
            data = bytearray(path.read_bytes())
            for _ in range(1 + int(strength * 8)):
                at = dice.randrange(len(data) or 1)
                data[at : at + 100] = dice.randbytes(100)
            path.write_bytes((data, data[: len(data) // 2], b"", b"no database")[dice.randrange(4)])
    return lambda: world.start(node)


def _clock_jumps(world: World, node: LabNode, strength: float) -> Heal:
    """Restart the daemon with a movable clock, move the clock, and restart it to heal."""
    clock = node.home / "clock"
    clock.write_text("+0")
    node.stop(signal.SIGKILL)
    world.start_with_clock(node, clock)
    wait_until(lambda: node.get("/ready") == {"ready": True}, f"{node.name} is ready", 30)
    clock.write_text(_JUMPS[int(strength * len(_JUMPS))])

    def heal() -> None:
        world.sweep()
        node.stop(signal.SIGKILL)
        world.start(node)

    return heal


# -- changes of the device by other programs -------------------------------------------------------


def _member(world: World, node: LabNode, strength: float) -> str:
    """Return the key of one of the node's peers."""
    keys = sorted(str(other.public_key) for other in world.nodes.values() if other is not node)
    return keys[int(strength * len(keys))]


def _wg(node: LabNode, *arguments: str, text: str | None = None) -> Heal:
    node.namespace.run("wg", "set", INTERFACE, *arguments, text=text)
    return _nothing


def _peer_removed(world: World, node: LabNode, strength: float) -> Heal:
    return _wg(node, "peer", _member(world, node, strength), "remove")


def _peer_added(world: World, node: LabNode, strength: float) -> Heal:
    return _wg(node, "peer", str(derive(new_key())), "allowed-ips", _STRANGER)


def _peer_edited(world: World, node: LabNode, strength: float) -> Heal:
    return _wg(node, "peer", _member(world, node, strength), "allowed-ips", _ELSEWHERE)


def _key_changed(world: World, node: LabNode, strength: float) -> Heal:
    text = base64.b64encode(secrets.token_bytes(32)).decode()
    port = str(WIREGUARD_PORT + 1 + int(strength * 100))
    return _wg(node, "private-key", "/dev/stdin", "listen-port", port, text=text)


def _ip(*arguments: str) -> Callable[[World, LabNode, float], Heal]:
    def edit(world: World, node: LabNode, strength: float) -> Heal:
        node.namespace.run("ip", *arguments)
        return _nothing

    return edit


def _rules_flushed(world: World, node: LabNode, strength: float) -> Heal:
    node.namespace.run("nft", "flush", "ruleset")
    return _nothing


def _rights_flushed(world: World, node: LabNode, strength: float) -> Heal:
    """Flush the chain of the rights of a group of members."""
    chains = re.findall(r"chain (rights_\w+)", node.namespace.run("nft", "list", "table", "inet", TABLE))
    chosen = chains[int(strength * len(chains))]
    node.namespace.run("nft", "flush", "chain", "inet", TABLE, chosen)
    return _nothing


_FOR_ALL: Final[dict[str, Callable[[World, float], Heal]]] = {
    "anvil killed": _chain_killed,
    "anvil suspended": _chain_suspended,
    "anvil wakes up older": _chain_older,
    "reorg": _reorg,
}
_FOR_ONE: Final[dict[str, Callable[[World, LabNode, float], Heal]]] = {
    "nothing at all": _none,
    "daemon killed": _daemon_killed,
    "daemon suspended": _daemon_suspended,
    "wireguard-go killed": _device_killed,
    "wireguard-go suspended": _device_suspended,
    "both killed": _both_killed,
    "gateway killed": _both_killed,
    "relay killed": _relay_killed,
    "disk full": _disk_full,
    "store corrupted": _store_corrupted,
    "clock jumps": _clock_jumps,
    "wg removes a peer": _peer_removed,
    "wg adds a stranger": _peer_added,
    "wg edits a peer": _peer_edited,
    "wg changes key and port": _key_changed,
    "nft flushes all rules": _rules_flushed,
    "nft closes a group": _rights_flushed,
    "ip sets it down": _ip("link", "set", INTERFACE, "down"),
    "ip takes the address": _ip("address", "flush", "dev", INTERFACE),
    "ip deletes it": _ip("link", "delete", INTERFACE),
}
