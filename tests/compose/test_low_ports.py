"""The files under deploy/ with ports below 1024, where these ports require a capability.

An engine sets net.ipv4.ip_unprivileged_port_start to 0 in its networks. The host's network, a
machine with systemd and a Kubernetes cluster have the kernel's default of 1024. DNS uses port 53 by
default, and RELAY_LISTEN uses 443 here. The tests replace only the parts of a file that a test does
not have: image, chain, the kernel's WireGuard.
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from scripts.stack import IMAGE, OWNER, ROOT, DockerError, Stack, docker, wait_for
from tests.guest_agent import Agent, serving

DEPLOY: Final = ROOT / "deploy"
SYSTEMD: Final = Path(__file__).parent / "systemd"
LOOK: Final = Path(__file__).with_name("look.py").read_text()
PREFIX: Final = f"dvpn-low-{os.getpid()}"
NODE: Final = "web-1"
LOW: Final = ("--sysctl", "net.ipv4.ip_unprivileged_port_start=1024")
TUN: Final = "/dev/net/tun:/dev/net/tun:rw"
MACHINE: Final = (
    *("--cgroupns", "private", "--cap-add", "SYS_ADMIN", "--cap-add", "NET_ADMIN"),
    *("--security-opt", "seccomp=unconfined", "--security-opt", "apparmor=unconfined"),
    *("--device", TUN, "--tmpfs", "/run", "--tmpfs", "/tmp", *LOW),
)
"""The options of a container with systemd. /proc/sys stays read-only."""


@dataclass(frozen=True)
class Chain:
    """A dev chain with the registry, in a network of the engine."""

    network: str
    container: str
    url: str = "ws://devchain:8545"

    def register(self, key: str) -> None:
        """Register the node with this key, or set the key if the node is registered."""
        command = ("exec", self.container, "dstack-vpn", "node")
        try:
            docker(*command, "register", NODE, "--to", OWNER, "--public-key", key)
        except DockerError as error:
            if "NodeIdTaken" not in str(error):
                raise
            docker(*command, "update-key", NODE, "--public-key", key)


@pytest.fixture(scope="module")
def chain() -> Iterator[Chain]:
    found = Chain(f"{PREFIX}-chain", f"{PREFIX}-devchain")
    try:
        docker("network", "create", "--internal", found.network)
        docker("run", "-d", "--name", found.container, "--network", found.network,
               "--network-alias", "devchain", "dstack-vpn/devchain:local")  # fmt: skip
        docker("exec", found.container, "dstack-vpn", "dev", "deploy")
        yield found
    finally:
        docker("rm", "-f", "-v", found.container, check=False)
        docker("network", "rm", found.network, check=False)


@contextmanager
def container(name: str, *arguments: str) -> Iterator[str]:
    """Run a container during the context; yield its name."""
    name = f"{PREFIX}-{name}"
    try:
        docker("run", "-d", "--name", name, *arguments)
        yield name
    finally:
        docker("rm", "-f", "-v", name, check=False)


def look(name: str) -> dict[str, Any]:
    """Return the output of look.py; empty while the daemon does not reply."""
    with suppress(DockerError):
        return dict(json.loads(docker("exec", "-i", name, "/usr/bin/python3", "-", NODE, stdin=LOOK)))
    return {}


def register(name: str, chain: Chain) -> None:
    """Register the node that runs in a container."""
    chain.register(wait_for("the daemon answers", lambda: look(name).get("public_key"), 30))


def serves_low_ports(name: str, log: Callable[[], str]) -> None:
    """Check the DNS server and the relay of the node in a container, and their health."""
    found: dict[str, Any] = {}

    def done() -> bool:
        found.update(look(name))
        return bool(found.get("dns") and found["relay"])

    with suppress(DockerError):
        wait_for("both ports answer", done, 15)
    assert found["port_start"] == 1024, "the test is one only where low ports are privileged"
    assert found["dns"] == found["address"], log()
    assert found["relay"] == "TLSv1.3", log()
    assert found["health"]["dns"]["status"] == found["health"]["relay"]["status"] == "ok", found["health"]


def test_the_systemd_unit(chain: Chain) -> None:
    docker("build", "-q", "-t", "dstack-vpn/systemd:local", str(SYSTEMD))
    values = settings(chain) | {"NODE_ID": NODE, "KEEP_INTERFACE": "1"}
    text = "".join(f"{name}={value}\n" for name, value in values.items())
    with container("systemd", "--network", chain.network, *MACHINE, "dstack-vpn/systemd:local") as name:
        wait_for("systemd is up", lambda: "running" in systemctl(name, "is-system-running"), 30)
        docker("exec", name, "install", "-d", "-m", "0700", "/etc/dstack-vpn")
        docker("exec", "-i", name, "install", "-m", "0600", "/dev/stdin", "/etc/dstack-vpn/env", stdin=text)
        docker("cp", str(DEPLOY / "systemd" / "dstack-vpn.service"), f"{name}:/etc/systemd/system/")
        systemctl(name, "daemon-reload")
        systemctl(name, "enable", "--now", "dstack-vpn")
        journal = ("exec", name, "journalctl", "-u", "dstack-vpn", "--no-pager", "-n", "40")
        register(name, chain)
        serves_low_ports(name, lambda: docker(*journal))
        assert systemctl(name, "show", "-p", "NRestarts", "dstack-vpn") == "NRestarts=0"
        before = wireguard_go(name)
        systemctl(name, "restart", "dstack-vpn")
        serves_low_ports(name, lambda: docker(*journal))
        assert wireguard_go(name) == before, "KillMode=process, and the daemon adopts its own tunnel"


def settings(chain: Chain) -> dict[str, str]:
    """Return the settings that a user adds to a file, with a relay and the test's chain."""
    return {
        "NETWORK": "local",
        "RPC_URL": chain.url,
        "WIREGUARD_PRIVATE_KEY": "generate",
        "RELAY_LISTEN": "tls://0.0.0.0:443",
    }


def wireguard_go(name: str) -> list[str]:
    """Return the processes of wireguard-go; none with the kernel's WireGuard."""
    return docker("exec", name, "sh", "-c", "grep -l ^wireguard-go /proc/[0-9]*/comm || true").split()


def systemctl(name: str, *arguments: str) -> str:
    """Run systemctl in a container; return its output."""
    return docker("exec", name, "systemctl", *arguments, check=False).strip()


def test_the_compose_file_for_dstack(chain: Chain, tmp_path: Path) -> None:
    host = ("--network", chain.network, *LOW, "dstack-vpn/net:local")
    with container("host", *host) as name, serving(Agent(), tmp_path) as agent:
        files = ("deploy/dstack.compose.yml", "tests/compose/dstack.yml")
        stack = Stack(f"{PREFIX}-dstack", files, {"NODE_ID": NODE, "HOST": name, "AGENT": agent})
        try:
            stack.compose("up", "-d", "--no-build")
            node = stack.container("node")
            register(node, chain)
            serves_low_ports(node, lambda: docker("logs", "-n", "40", node, check=False))
        finally:
            stack.down()


def test_the_kubernetes_manifest(chain: Chain) -> None:
    text = (DEPLOY / "kubernetes" / "node.yaml").read_text()
    documents = {document["kind"]: document for document in yaml.safe_load_all(text)}
    pod = documents["StatefulSet"]["spec"]["template"]["spec"]
    (node,) = pod["containers"]
    values = documents["ConfigMap"]["data"] | settings(chain)
    options = [*of_the_pod(pod, node), *(f"--env={name}={value}" for name, value in values.items())]
    network = ("--network", chain.network, *LOW, "--device", TUN)
    with container("kubernetes", *network, *options, IMAGE, *node["args"]) as name:
        register(name, chain)
        serves_low_ports(name, lambda: docker("logs", "-n", "40", name, check=False))
        for probe in ("startupProbe", "readinessProbe"):
            docker("exec", name, *node[probe]["exec"]["command"])


def of_the_pod(pod: dict[str, Any], node: dict[str, Any]) -> Iterator[str]:
    """Yield the privileges and mounts of a pod's container as options of `docker run`."""
    context = node["securityContext"]
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}, "the engine's default, too"
    yield f"--user={context['runAsUser']}"
    yield from (f"--cap-drop={name}" for name in context["capabilities"]["drop"])
    yield from (f"--cap-add={name}" for name in context["capabilities"]["add"])
    if not context["allowPrivilegeEscalation"]:
        yield "--security-opt=no-new-privileges:true"
    if context["readOnlyRootFilesystem"]:
        yield "--read-only"
    yield f"--memory={node['resources']['limits']['memory'].removesuffix('i').lower()}"
    in_memory = {volume["name"] for volume in pod["volumes"] if volume["emptyDir"]["medium"] == "Memory"}
    for mount in node["volumeMounts"]:
        kind = "tmpfs" if mount["name"] in in_memory else "volume"
        yield f"--{kind}={mount['mountPath']}"
