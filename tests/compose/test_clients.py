"""A plain client in a container: wg-quick takes the printed configuration as it is."""

import json
import os
from collections.abc import Iterator
from typing import Final

import pytest
from scripts.stack import Stack, base_image, docker, wait_for, wait_healthy

IMAGE: Final = "dstack-vpn/plain-client:test"
DOCKERFILE: Final = """
ARG DSTACK_VPN_BASE
FROM ${DSTACK_VPN_BASE}
RUN apt-get update -qq \\
 && apt-get install -qq -y --no-install-recommends iproute2 wireguard-go wireguard-tools >/dev/null
CMD ["sleep", "infinity"]
"""
FETCH: Final = "exec 3<>/dev/tcp/10.77.0.2/80; printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3; timeout 2 cat <&3"


class Client:
    """A container with nothing of this project in it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def exec(self, *command: str, stdin: str | None = None, check: bool = True) -> str:
        return docker("exec", "-i", self.name, *command, stdin=stdin, check=check)

    def is_served(self) -> bool:
        """Return whether node a's web server replies."""
        return "200 OK" in self.exec("timeout", "3", "bash", "-c", FETCH, check=False)


@pytest.fixture
def client(stack: Stack) -> Iterator[Client]:
    """Node a is a gateway, and a container without a key is on its network."""
    docker(
        "build", "-q", "-t", IMAGE, "--build-arg", f"DSTACK_VPN_BASE={base_image()}", "-", stdin=DOCKERFILE
    )
    name = f"{stack.project}-phone-{os.getpid()}"
    limits = ("--cap-drop", "ALL", "--cap-add", "NET_ADMIN", "--security-opt", "no-new-privileges")
    ipv6 = (
        "--sysctl",
        "net.ipv6.conf.all.disable_ipv6=0",
        "--sysctl",
        "net.ipv6.conf.default.disable_ipv6=0",
    )
    place = ("--network", f"{stack.project}_data", "--device", "/dev/net/tun", *ipv6)
    docker("run", "-d", "--rm", "--pull", "never", "--name", name, *limits, *place, IMAGE)
    stack.node("tag", "define", "gateway")
    stack.node("node", "tag", "a", "gateway")
    try:
        yield Client(name)
    finally:
        docker("rm", "-f", name, check=False)
        stack.node("node", "tag", "a", "--none")


def test_a_container_with_wg_quick_is_a_client(stack: Stack, client: Client) -> None:
    config = stack.node("client", "add", "phone-1", "--gateway", "a", "--no-dns")
    client.exec("sh", "-c", "umask 077; cat >/etc/wireguard/wg0.conf", stdin=config)
    client.exec("wg-quick", "up", "wg0")
    wait_for("the web server replies", client.is_served)

    gateway = stack.container("node-a")
    docker("kill", "-s", "KILL", gateway)
    docker("start", gateway)
    wait_healthy(gateway)
    wait_for("it replies again, without a change on the client", client.is_served)

    stack.node("node", "revoke", "phone-1", "--yes")
    wait_for("the gateway has removed the client", lambda: not has_client(stack))
    assert not client.is_served()


def has_client(stack: Stack) -> bool:
    peers = json.loads(stack.exec("node-a", "dstack-vpn", "status", "--json"))["stats"]["peers"]
    return any(peer["node_id"] == "phone-1" for peer in peers)
