"""A sidecar in containers leaves by an exit, and by nothing else."""

import os
from collections.abc import Iterator
from typing import Final

import pytest
from scripts.stack import OWNER, DockerError, Stack, docker, inspect, running, wait_for, wait_healthy

SERVER: Final = "25.203.113.9"
FETCH: Final = (
    "import sys, urllib.request as r; print(r.urlopen(f'http://{sys.argv[1]}/', timeout=2).read().decode())"
)
CONNECT: Final = (
    "import socket, sys; s = socket.socket(); s.settimeout(2);"
    "print(s.connect_ex((sys.argv[1], int(sys.argv[2]))))"
)
_FILES: Final = ("docker-compose.yml", "tests/compose/exit.yml")


@pytest.fixture(scope="module")
def leaving() -> Iterator[Stack]:
    """Node a is an exit before node c starts."""
    with running(Stack(f"dvpn-exit-{os.getpid()}", _FILES), "node-a", "server", build=False) as stack:
        stack.node("node", "routes", "a", "0.0.0.0/0")
        stack.compose("up", "-d", "node-c")
        key = wait_for("node c has a key", lambda: public_key(stack))
        stack.node("node", "register", "c", "--to", OWNER, "--public-key", key)
        stack.compose("up", "-d", "--wait", "sidecar")
        yield stack


def public_key(stack: Stack) -> str | None:
    """Return the key of node c, which it generates at its start."""
    try:
        return str(stack.status("node-c")["stats"]["public_key"])
    except (DockerError, ValueError):
        return None


def seen(stack: Stack) -> str | None:
    """Return the address that the server sees; None if the sidecar does not reach it."""
    sidecar = stack.container("sidecar")
    return docker("exec", sidecar, "/usr/bin/python3", "-c", FETCH, SERVER, check=False).strip() or None


def address(stack: Stack, service: str, network: str) -> str:
    found = inspect(stack.container(service))["NetworkSettings"]["Networks"]
    return str(found[f"{stack.project}_{network}"]["IPAddress"])


def connects(stack: Stack, host: str, port: int) -> bool:
    printed = stack.exec("sidecar", "/usr/bin/python3", "-c", CONNECT, host, str(port))
    return printed.strip() == "0"


def test_the_server_sees_the_exit(leaving: Stack) -> None:
    exit_address = address(leaving, "net-a", "internet")
    wait_for("the server sees the exit", lambda: seen(leaving) == exit_address)


def test_the_sidecar_reaches_no_local_network(leaving: Stack) -> None:
    """The daemon's own connection to the chain goes on."""
    assert not connects(leaving, address(leaving, "devchain", "control"), 8545)
    assert leaving.status("node-c")["health"]["ready"]


def test_a_killed_node_opens_no_other_way(leaving: Stack) -> None:
    exit_address = address(leaving, "net-a", "internet")
    node = leaving.container("node-c")
    docker("kill", "-s", "KILL", node)
    wait_for("the node has ended", lambda: inspect(node)["State"]["Status"] == "exited")
    assert not connects(leaving, SERVER, 80)
    assert not connects(leaving, address(leaving, "devchain", "control"), 8545)
    docker("start", node)
    wait_healthy(node)
    wait_for("the server sees the exit again", lambda: seen(leaving) == exit_address)
