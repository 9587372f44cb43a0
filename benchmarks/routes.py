"""Networks behind other nodes: their withdrawal, bystanders' losses, and the failover of a gateway.

`changes` measures from the request to a real dev chain (anvil) to mine a block, which gives a node
a network or takes it away, until wireguard-go acknowledges the change. `bystander` counts the lost
packets to a gateway's own address, and to another member's, during changes of the gateway's
networks. `failover` kills a gateway's daemon and its WireGuard, and takes the longest gap between
two replies of a machine behind both gateways.
"""

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Final

from demo.chain import real_anvil
from demo.lab import Lab, Tools
from demo.namespaces import wait_until
from demo.node import LabNode
from demo.ping import Ping
from tests.anvil import anvil_path, running_anvil
from tests.netns_support import wireguard_go

from benchmarks.events import _filled, _mined
from benchmarks.harness import NotMeasurableError, new_key, quiet_namespace, running_daemon, summary
from dstack_vpn.adapters.contracts import calls

CHANGES: Final = 200
PACE: Final = 0.05
"""Seconds between changes."""
BYSTANDER_CHANGES: Final = 1000
BYSTANDER_PACE: Final = 0.02
FAILOVERS: Final = 7
NETWORK: Final = "10.90.0.0/24"
MACHINE: Final = "10.90.0.10"


async def changes(peers: int = 100) -> dict[str, Any]:
    """Measure the networks of one node among ``peers`` that come and go."""
    found: dict[str, list[float]] = {"given": [], "withdrawn": [], "withdrawn_in_daemon": []}
    with quiet_namespace() as home:
        async with AsyncExitStack() as stack:
            anvil = await stack.enter_async_context(running_anvil())
            await anvil.mint_many(peers)
            await anvil.rpc("evm_setAutomine", False)
            settings = {"RPC_URL": anvil.ws, "CONTRACT_ADDRESS": anvil.contract, "ACCEPT_ROUTES": "all"}
            daemon = await stack.enter_async_context(running_daemon(home, new_key(), **settings))
            await _filled(daemon, peers)
            for turn in range(CHANGES):
                network = f"10.{turn // 250}.{turn % 250}.0/24"
                for kind, routes in (("given", [network]), ("withdrawn", [])):
                    since = len(daemon.entries)
                    began = await _mined(anvil, calls.set_routes(1, routes))
                    entry = await daemon.wait(lambda e: e["event"] == "peer.set", since)
                    found[kind].append(entry["at"] - began)
                    if kind == "withdrawn":
                        found["withdrawn_in_daemon"].append(entry["latency_ms"] / 1000)
                    await asyncio.sleep(PACE)
    return {"peers": peers, **{kind: summary(seconds) for kind, seconds in found.items()}}


def bystander() -> dict[str, Any]:
    """Count the packets that are lost without changes, and during changes of networks."""
    with Lab(_tools()) as lab:
        gateway, member, other = _members(lab, "gw", "member", "other")
        member.stop()
        member.start(ACCEPT_ROUTES="all")
        member.wait_ready()
        found: dict[str, Any] = {"changes": BYSTANDER_CHANGES}
        for kind in ("without", "with"):
            pings = {
                name: Ping(
                    member.namespace, node.address, lab.run.home / f"{kind}-{name}.log", interval=0.002
                )
                for name, node in (("gateway", gateway), ("other", other))
            }
            starts = {name: ping.mark() for name, ping in pings.items()}
            for turn in range(BYSTANDER_CHANGES):
                if kind == "with":
                    lab.chain.send(calls.set_routes(gateway.token, [NETWORK][turn % 2 :]))
                time.sleep(BYSTANDER_PACE)
            losses = {name: ping.between(starts[name], ping.mark()) for name, ping in pings.items()}
            for ping in pings.values():
                ping.stop()
            found[kind] = {name: {"sent": each.sent, "lost": each.lost} for name, each in losses.items()}
        log = member.log.read_text()
        return found | {"applied": log.count('"network.reached"') + log.count('"network.left"')}


def failover() -> dict[str, Any]:
    """Measure the time without replies after the gateway in use was killed."""
    gaps = []
    with Lab(_tools()) as lab:
        first, second, member = _members(lab, "gw-1", "gw-2", "member")
        for gateway in (first, second):
            gateway.namespace.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
            gateway.namespace.run("ip", "address", "add", f"{MACHINE}/32", "dev", "lo")
            lab.chain.send(calls.set_routes(gateway.token, [NETWORK]))
            gateway.stop()
            gateway.start(LEAK_PROTECTION="off")
        member.stop()
        member.start(ACCEPT_ROUTES="all")
        wait_until(lambda: _gateway(member) is not None, "the network is reached")
        member.wait_reaches(MACHINE)
        used, spare = first, second
        for turn in range(FAILOVERS):
            spare.wait_ready()
            member.wait_reaches(spare.address)
            time.sleep(1.0 + turn * 0.13)  # at another moment between two echoes each time
            ping = Ping(member.namespace, MACHINE, lab.run.home / f"failover-{turn}.log")
            start = ping.mark()
            _kill(used)
            wait_until(partial(_is_used, member, spare), "the network has moved")
            gaps.append(ping.between(start, ping.mark()).longest_gap)
            ping.stop()
            used.start(LEAK_PROTECTION="off")
            used, spare = spare, used
        return {"n": len(gaps), "median_s": round(median(gaps), 2), "max_s": round(max(gaps), 2)}


def _tools() -> Tools:
    anvil, wireguard = anvil_path(), wireguard_go()
    if anvil is None or wireguard is None:
        raise NotMeasurableError("anvil or wireguard-go is missing")
    return Tools(real_anvil(Path(anvil)), Path(wireguard))


def _members(lab: Lab, *names: str) -> tuple[LabNode, ...]:
    lab.start_chain()
    for name in names:
        node = lab.add_node(name)
        lab.mint(node)
        lab.set_endpoint(node)
        node.start()
    for node in lab.nodes.values():
        node.wait_ready()
    for node in lab.others(lab.nodes[names[-1]]):
        lab.nodes[names[-1]].wait_reaches(node.address)
    return tuple(lab.nodes.values())


def _gateway(member: LabNode) -> str | None:
    shown = member.get("/stats").get("networks", ())
    return next((each["node_id"] for each in shown if each["network"] == NETWORK), None)


def _is_used(member: LabNode, gateway: LabNode) -> bool:
    return _gateway(member) == gateway.name


def _kill(node: LabNode) -> None:
    pid = node.namespace.pid_of("wireguard-go")
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    node.stop(signal.SIGKILL)


ALL: Final[dict[str, Callable[[], Awaitable[dict[str, Any]] | dict[str, Any]]]] = {
    "routes-changes": changes,
    "routes-bystander": bystander,
    "routes-failover": failover,
}
