"""The production files: one node, no service of the local profile, and resource limits."""

import base64
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from demo.node import new_key
from scripts.stack import ROOT, DockerError, Stack, docker, inspect, wait_for

FILES = ("docker-compose.yml", "deploy/compose.production.yml")
SETTINGS = {
    "DSTACK_VPN_IMAGE": "dstack-vpn/wireguard:local",
    "DSTACK_VPN_NET_IMAGE": "dstack-vpn/net:local",
    "LISTEN_PORT": "51877",
    "NETWORK": "local",
    "NODE_ID": "web-1",
    "RPC_URL": "ws://127.0.0.1:9",
}


def production(folder: Path, *more: str, **settings: str) -> Stack:
    """Return the stack, with its .env in a folder of the test."""
    file = folder / ".env"
    file.write_text("".join(f"{name}={value}\n" for name, value in {**SETTINGS, **settings}.items()))
    environment = {"DSTACK_VPN_ENV_FILE": str(file), **SETTINGS, **settings}
    return Stack(f"dvpn-prod-{os.getpid()}", (*FILES, *more), environment)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    stack = production(tmp_path_factory.mktemp("production"))
    try:
        stack.compose("up", "-d", "--no-build")
        yield stack
    finally:
        stack.down()


def test_nothing_but_the_node_runs(node: Stack) -> None:
    assert sorted(node.compose("ps", "-a", "--services").split()) == ["net", "node"]
    assert sorted(node.compose("config", "--services").split()) == ["net", "node"]


def test_everything_has_bounds(node: Stack) -> None:
    for service, megabytes in (("net", 16), ("node", 256)):
        host = inspect(node.container(service))["HostConfig"]
        assert host["Memory"] == megabytes << 20
        assert host["NanoCpus"] > 0 and host["PidsLimit"] > 0
        assert host["RestartPolicy"]["Name"] == "unless-stopped"
        assert host["LogConfig"] == {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "5"}}
        assert host["CapDrop"] == ["ALL"]
        assert host["ReadonlyRootfs"]
    assert inspect(node.container("node"))["HostConfig"]["CapAdd"] in (["NET_ADMIN"], ["CAP_NET_ADMIN"])
    assert list(inspect(node.container("net"))["HostConfig"]["PortBindings"]) == ["51877/udp"]


def test_it_takes_its_settings_from_the_file(node: Stack) -> None:
    container = node.container("node")
    check = wait_for(
        "a health check",
        lambda: next(iter(inspect(container)["State"]["Health"]["Log"] or ()), None),
        60,
    )
    assert "check RPC_URL" in check["Output"] or "no endpoint has answered yet" in check["Output"]
    environment = inspect(container)["Config"]["Env"]
    assert "NODE_ID=web-1" in environment and "WIREGUARD_PRIVATE_KEY=generate" in environment
    assert '"event": "key.made"' in docker("logs", container, check=False)


def test_an_image_has_to_be_named(tmp_path: Path) -> None:
    stack = production(tmp_path, DSTACK_VPN_IMAGE="")
    with pytest.raises(DockerError, match="DSTACK_VPN_IMAGE"):
        stack.compose("config")


def test_a_key_of_the_hosts_comes_as_a_docker_secret(tmp_path: Path) -> None:
    path = tmp_path / "wireguard.key"
    path.touch(0o600)
    path.write_bytes(base64.b64encode(new_key().reveal()))
    stack = production(tmp_path, "deploy/compose.secret.yml", WIREGUARD_KEY=str(path), LISTEN_PORT="51878")
    stack.project += "-secret"
    try:
        stack.compose("up", "-d", "--no-build")
        container = stack.container("node")
        wait_for("it is up", lambda: "device.up" in docker("logs", container, check=False), 60)
        assert "key.made" not in docker("logs", container, check=False)
        assert path.read_text() not in str(inspect(container))
    finally:
        stack.down()


def test_the_file_for_dstack_can_be_read() -> None:
    stack = Stack("dvpn-dstack", ("deploy/dstack.compose.yml",), {"NODE_ID": "a"})
    assert stack.compose("config", "--services").split() == ["node"]
    assert (ROOT / "deploy" / "dstack.compose.yml").read_text().count("privileged") == 0
