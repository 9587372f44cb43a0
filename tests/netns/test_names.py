"""DNS names in the tunnel, by dig, the C library and systemd-resolved."""

import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from demo.lab import Lab
from demo.node import LabNode
from tests.netns_support import Namespace, wait_until

pytestmark = [pytest.mark.netns, pytest.mark.anvil]
RESOLVED = Path(__file__).parents[2] / ".cache" / "resolved"
STUB = "127.0.0.53"


@pytest.fixture
def pair(empty_lab: Lab) -> tuple[LabNode, LabNode]:
    """Return two nodes whose DNS servers reply, a and b."""
    found = []
    for name in "ab":
        node = empty_lab.add_node(name)
        empty_lab.mint(node)
        empty_lab.set_endpoint(node)
        node.start()
        found.append(node)
    a, b = found
    for node in found:
        node.wait_ready()
        wait_until(lambda: dig(a, node.address, "a.vpn.internal"), f"{node.name} replies to a")  # noqa: B023  # used in the same iteration
    return a, b


def dig(asker: LabNode, server: str, *question: str) -> str:
    command = ("dig", f"@{server}", "+short", "+time=1", "+tries=1", *question)
    said = asker.namespace.run(*command, check=False).strip()
    return "" if said.startswith(";;") else said


def getent(asker: LabNode, database: str, what: str) -> str:
    return asker.namespace.run("getent", database, what, check=False).strip()


def point(asker: LabNode, server: str, folder: Path) -> None:
    """Set the DNS server of the C library in a namespace."""
    file = folder / "resolv.conf"
    file.write_text(f"nameserver {server}\noptions timeout:1 attempts:1\n")
    asker.namespace.run("mount", "--bind", file, "/etc/resolv.conf")


def test_names_lead_to_members_and_change_with_the_registry(
    empty_lab: Lab, pair: tuple[LabNode, LabNode], tmp_path: Path
) -> None:
    a, b = pair
    point(a, a.address, tmp_path)
    # The node's own DNS server, and another node's over the tunnel.
    for server in (a.address, b.address):
        assert dig(a, server, "b.vpn.internal") == b.address
        assert dig(a, server, "-x", b.address) == "b.vpn.internal."
        assert f"token={b.token}" in dig(a, server, "b.vpn.internal", "TXT")
        assert dig(a, server, "+tcp", "b.vpn.internal") == b.address
    ipv6 = dig(a, a.address, "b.vpn.internal", "AAAA")
    assert dig(a, ipv6, "-x", ipv6) == "b.vpn.internal."
    assert getent(a, "ahostsv4", "b.vpn.internal").split()[0] == b.address
    assert getent(a, "hosts", b.address).split() == [b.address, "b.vpn.internal"]
    assert getent(a, "hosts", "c.vpn.internal") == ""

    empty_lab.lost(empty_lab.revoke(b), b.public_key, (a,))
    assert dig(a, a.address, "b.vpn.internal") == ""
    assert getent(a, "hosts", b.address) == ""
    assert "NXDOMAIN" in a.namespace.run("dig", f"@{a.address}", "b.vpn.internal")


def test_who_is_not_in_the_tunnel_is_not_answered(pair: tuple[LabNode, LabNode]) -> None:
    a, b = pair
    # A neighbour can route a tunnel address over the underlay.
    b.namespace.run("ip", "route", "replace", f"{a.address}/32", "via", a.underlay)
    said = b.namespace.run("dig", f"@{a.address}", "+time=1", "+tries=1", "a.vpn.internal", check=False)
    assert "no servers could be reached" in said or "timed out" in said


@pytest.fixture
def resolved(pair: tuple[LabNode, LabNode], tmp_path: Path) -> Iterator[LabNode]:
    """Yield a node with a systemd-resolved that forwards the network's names to the node."""
    program = next(RESOLVED.rglob("lib/systemd/systemd-resolved"), None)
    if program is None or not os.access(program, os.X_OK):
        pytest.skip("NO SYSTEMD-RESOLVED: `make test` unpacks one")
    a, _ = pair
    configuration, passwd = tmp_path / "resolved.conf", tmp_path / "passwd"
    zones = "~vpn.internal ~77.10.in-addr.arpa"
    configuration.write_text(
        f"[Resolve]\nDNS={a.address}\nDomains={zones}\nDNSSEC=no\nLLMNR=no\nMulticastDNS=no\n"
    )
    passwd.write_text(Path("/etc/passwd").read_text() + "systemd-resolve:x:64992:64992::/:/bin/false\n")
    prepare(a.namespace, configuration, passwd)
    libraries = {str(found.parent) for found in RESOLVED.rglob("libsystemd-shared-*.so")}
    environment = {"LD_LIBRARY_PATH": ":".join(libraries), "PATH": os.defpath}
    with (tmp_path / "resolved.log").open("w") as log:
        a.namespace.popen(program, env=environment, stdout=log, stderr=subprocess.STDOUT)
        wait_until(lambda: f"{STUB}%lo:53" in a.namespace.run("ss", "-Hlnu"), "resolved listens")
        yield a


def prepare(namespace: Namespace, configuration: Path, passwd: Path) -> None:
    namespace.run("mkdir", "-p", "/etc/systemd", "/run/systemd")
    for folder in ("/etc/systemd", "/run/systemd"):
        namespace.run("mount", "-t", "tmpfs", "tmpfs", folder)
    namespace.run("cp", configuration, "/etc/systemd/resolved.conf")
    namespace.run("mount", "--bind", passwd, "/etc/passwd")


def test_systemd_resolved_asks_the_node(
    resolved: LabNode, pair: tuple[LabNode, LabNode], tmp_path: Path
) -> None:
    a, b = pair
    point(a, STUB, tmp_path)
    assert dig(a, STUB, "b.vpn.internal") == b.address
    assert dig(a, STUB, "-x", b.address) == "b.vpn.internal."
    assert getent(a, "ahostsv4", "b.vpn.internal").split()[0] == b.address


def test_a_part_that_cannot_listen_fails_the_health_until_it_can(empty_lab: Lab) -> None:
    node = empty_lab.add_node("a")
    empty_lab.mint(node)
    with node.namespace.entered():
        taken = [socket.socket(type=socket.SOCK_DGRAM), socket.socket()]
        for each, port in zip(taken, (53, 4430), strict=True):
            each.bind(("0.0.0.0", port))
    taken[1].listen()
    node.start(RELAY_LISTEN="tcp://0.0.0.0:4430")
    wait_until(lambda: node.get("/ready") == {"ready": True}, "the tunnel is up")
    for part in ("dns", "relay"):
        wait_until(lambda: node.component(part)[0] == "failed", f"{part} has failed")  # noqa: B023  # used in the same iteration
        assert "in use" in node.component(part)[1]
    assert node.get("/health")["status"] == "failed"
    for part in ("api", "metrics"):
        assert node.component(part) == ("ok", "")
    for each in taken:
        each.close()
    for part in ("dns", "relay"):
        wait_until(lambda: node.component(part) == ("ok", ""), f"{part} works", 15)  # noqa: B023  # used in the same iteration
