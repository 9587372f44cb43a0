"""The containers: image sizes, time to healthy, time to stop, memory, and losses of an upgrade.

The images are required (`docker compose build`, after `scripts/setup-docker`). The containers run
on the compose stack's internal networks.
"""

import itertools
import json
import os
import time
from datetime import datetime
from statistics import median
from typing import Any, Final

from scripts.stack import IMAGE, Stack, base_image, docker, health, inspect, running, wait_for
from scripts.upgrade_demo import FILES_KEPT, FILES_PLAIN, build_next, upgrade

from benchmarks.harness import NotMeasurableError

RUNS: Final = 5
PEERS: Final = 100
IMAGES: Final = ("wireguard", "mullvad-proxy", "net", "admin", "devchain")
PYTHON: Final = "/opt/dstack-vpn/bin/python"
_MINT: Final = """
import secrets, sys
from dstack_vpn.adapters.contracts import calls
from dstack_vpn.cli.dev import DevChain
from dstack_vpn.core.wireguard.keys import PublicKey
chain = DevChain("http://127.0.0.1:8545")
for number in range(int(sys.argv[1])):
    data = calls.mint(chain.owner(), f"bench-{number}", PublicKey(secrets.token_bytes(32)))
    chain.send("0x5fbdb2315678afecb367f032d93f642f64180aa3", data)
"""
_FLOWS: Final = """
import socket, sys
sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(int(sys.argv[1]))]
for s in sockets:
    s.sendto(bytes(32), ("proxy-b", 51821))
"""


def sizes() -> dict[str, Any]:
    """Return the size that each image adds to the base, uncompressed, in MB (10^6 bytes)."""
    if docker("image", "inspect", IMAGE, check=False).startswith("[]"):
        raise NotMeasurableError("images are missing: run scripts/setup-docker and docker compose build")
    base = inspect(base_image())["Size"]
    found: dict[str, Any] = {"base_mb": round(base / 1e6, 1)}
    for name in IMAGES:
        image = f"dstack-vpn/{name}:local"
        if name == "admin":
            docker("build", "-q", "-f", "docker/Dockerfile", "--target", "admin", "-t", image, ".")
        found[name] = round((inspect(image)["Size"] - base) / 1e6, 1)
    return found


def life() -> dict[str, Any]:
    """Measure `docker run` until healthy and `docker stop` (s), and memory in MB (2^20)."""
    found: dict[str, Any] = _starts(Stack(f"dvpn-bench-{os.getpid()}"))
    with running(Stack(f"dvpn-bench-{os.getpid()}"), build=False) as stack:
        found["node_idle_mb"], found["proxy_idle_mb"] = _memory(stack, "node-a"), _memory(stack, "proxy-b")
        stack.exec("devchain", PYTHON, "-c", _MINT, str(PEERS))
        wait_for("all peers", lambda: len(stack.status("node-a")["stats"]["peers"]) > PEERS)
        stack.exec("client", "/usr/bin/python3", "-c", _FLOWS, str(PEERS))
        time.sleep(3.0)
        found["node_100_peers_mb"] = _memory(stack, "node-a")
        found["proxy_100_flows_mb"] = _memory(stack, "proxy-b")
    return found


def upgrades() -> dict[str, Any]:
    """Count the lost datagrams of both kinds of upgrade, at one datagram every 10 ms."""
    build_next()
    return {"plain": upgrade(FILES_PLAIN, "plain"), "kept": upgrade(FILES_KEPT, "kept")}


def _starts(stack: Stack) -> dict[str, float]:
    """Measure starts of a node with a new key and an empty state, next to a chain only."""
    try:
        stack.compose("up", "-d", "--no-build", "devchain", "registry")
        wait_for("the registry", lambda: health(stack.container("registry")) == "exited", pause=0.5)
        lives = [_live(stack, f"{stack.project}-{number}") for number in range(RUNS)]
    finally:
        stack.down()
    names = ("run_to_tunnel_s", "run_to_healthy_s", "stop_s")
    kinds = zip(*lives, strict=True)
    return {name: round(median(values), 2) for name, values in zip(names, kinds, strict=True)}


def _live(stack: Stack, name: str) -> tuple[float, float, float]:
    """Return the seconds from `docker run` to the tunnel and to healthy, and of `docker stop`."""
    options = (
        *("--cap-drop", "ALL", "--cap-add", "NET_ADMIN", "--device", "/dev/net/tun", "--read-only"),
        *("--tmpfs", "/run/wireguard", "--network", f"{stack.project}_control"),
        *("-e", "NETWORK=local", "-e", "RPC_URL=ws://devchain:8545", "-e", "WIREGUARD_PRIVATE_KEY=generate"),
    )
    began = time.time()  # noqa: TID251 - compared with the engine's time stamps
    try:
        docker("run", "-d", "--name", name, *options, IMAGE)
        # A long pause, because each query takes processor time from the start.
        wait_for("healthy", lambda: health(name) == "healthy", pause=0.3)
        checks = inspect(name)["State"]["Health"]["Log"]
        healthy = next(_seconds(check["End"]) for check in checks if not check["ExitCode"])
        ready = _ready_at(name)
        stopping = time.monotonic()
        docker("stop", "-t", "10", name)
        return ready - began, healthy - began, time.monotonic() - stopping
    finally:
        docker("rm", "-f", "-v", name, check=False)


def _seconds(stamp: str) -> float:
    """Convert the engine's time stamp, which has nanoseconds, to Unix seconds."""
    return datetime.fromisoformat(stamp[:26] + "+00:00").timestamp()


def _ready_at(name: str) -> float:
    for line in docker("logs", name, check=False).splitlines():
        entry = json.loads(line) if line.startswith("{") else {}
        if entry.get("event") == "device.up":
            return datetime.fromisoformat(entry["timestamp"]).timestamp()
    raise NotMeasurableError(f"the log of {name} has no device.up line")


def _memory(stack: Stack, service: str) -> float:
    """Return a container's resident memory in MB (2^20), without page cache and health checks."""
    container = stack.container(service)
    processes = docker("top", container, "-eo", "pid,rss,args").splitlines()[1:]
    wanted = itertools.filterfalse(lambda line: "healthcheck" in line, processes)
    return round(sum(int(line.split()[1]) for line in wanted) / 1024, 1)


ALL: Final = {"containers-sizes": sizes, "containers-life": life, "containers-upgrade": upgrades}
