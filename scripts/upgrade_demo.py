"""Replace node a's image while node b sends to it, and count the losses (`make upgrade-demo`).

The first upgrade is plain: the interface is removed and created again with the node. In the second,
the interface outlives the node (deploy/compose.keep-interface.yml). A datagram goes to node a and
back every 10 ms.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from scripts.stack import IMAGE, Stack, docker, running, wait_healthy

NEXT: Final = "dstack-vpn/wireguard:next"
FILES_PLAIN: Final = ("docker-compose.yml",)
FILES_KEPT: Final = ("docker-compose.yml", "deploy/compose.keep-interface.yml")
INTERVAL: Final = "0.01"
_PROBE: Final = ("/usr/bin/python3", "/usr/local/lib/dstack-vpn-demo/probe.py")
_SETTLE: Final = 2.0
"""Seconds of traffic before and after the upgrade."""


@contextmanager
def traffic(stack: Stack, result: dict[str, float]) -> Iterator[None]:
    """Send datagrams from node b's network to node a's and back; put the counts into ``result``."""
    docker("exec", "-d", stack.container("web"), *_PROBE, "echo", "10.77.0.2", "7777")
    command = [
        "docker",
        "exec",
        "-i",
        stack.container("client"),
        *_PROBE,
        "send",
        "10.77.0.2",
        "7777",
        INTERVAL,
    ]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as sender:
        time.sleep(_SETTLE)
        yield
        time.sleep(_SETTLE)
        counts, _ = sender.communicate(timeout=20)
    result |= json.loads(counts)


def upgrade(files: tuple[str, ...], name: str) -> dict[str, float]:
    """Upgrade node a; return ``sent``, ``lost``, ``gap`` (s) and ``took`` (s)."""
    stack = Stack(f"dvpn-{name}-{os.getpid()}", files)
    result: dict[str, float] = {}
    with running(stack, build=False):
        wait_healthy(stack.container("client"))
        old = stack.container("node-a")
        with traffic(stack, result):
            began = time.monotonic()
            newer = Stack(stack.project, files, {"DSTACK_VPN_IMAGE": NEXT})
            newer.compose("up", "-d", "--no-deps", "--no-build", "--wait", "node-a")
            result["took"] = round(time.monotonic() - began, 2)
        if stack.container("node-a") == old:
            raise RuntimeError("node a still runs in its old container")
    return result


def build_next() -> None:
    """Build the image to which node a is upgraded, from the same sources."""
    build = ("build", "-q", "-f", "docker/Dockerfile", "--target", "wireguard", "--build-arg", "VERSION=next")
    docker(*build, "-t", NEXT, ".")


def main() -> int:
    """Run both upgrades; return 1 if the plain one had a gap of over 2 s or the other a loss."""
    Stack("dstack-vpn").compose("build", "-q")
    build_next()
    print(f"{NEXT} replaces {IMAGE}; one datagram every 10 ms\n")
    print(f"{'':<34}{'sent':>6}{'lost':>6}{'longest gap':>14}{'healthy after':>16}")
    plain = upgrade(FILES_PLAIN, "plain")
    show("plain: the interface is new", plain)
    kept = upgrade(FILES_KEPT, "kept")
    show("KEEP_INTERFACE=1, long-lived", kept)
    return 0 if plain["gap"] <= 2.0 and kept["lost"] == 0 else 1


def show(name: str, found: dict[str, float]) -> None:
    """Print a row of the table."""
    print(
        f"{name:<34}{found['sent']:>6}{found['lost']:>6}{found['gap']:>12.2f} s{found['took']:>14.2f} s",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
