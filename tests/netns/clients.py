"""A phone: a namespace in which the ordinary wg-quick brings up a printed configuration."""

import json
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from demo.lab import Lab
from demo.node import LabNode
from tests.netns_support import wait_until

from dstack_vpn.adapters.contracts import calls
from dstack_vpn.core.wireguard.keys import PrivateKey, PublicKey
from dstack_vpn.core.wireguard.x25519 import derive

ROOT: Final = Path(__file__).parents[2]
OWNER_KEY: Final = ROOT / "docker" / "devchain" / "account0.key"
GATEWAY: Final = 1
"""The tag's mask."""
RESOLVCONF: Final = """#!/bin/sh
[ "$1" = -a ] && cat > /etc/resolv.conf
exit 0
"""
"""wg-quick passes the servers of DNS to resolvconf(8), which is not installed everywhere."""


def forward(node: LabNode, *, on: bool = True) -> None:
    """Let the machine of a node forward packets."""
    for name in ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"):
        node.namespace.run("sysctl", "-qw", f"{name}={int(on)}")


def with_gateway(lab: Lab) -> tuple[LabNode, LabNode, LabNode]:
    """Start a gateway and two other nodes, and return them."""
    lab.chain.send(calls.define_tag("gateway"))
    for name in ("gw", "a", "b"):
        node = lab.add_node(name)
        lab.mint(node)
        lab.set_endpoint(node)
    gateway, a, b = (lab.nodes[name] for name in ("gw", "a", "b"))
    lab.chain.send(calls.set_tags(gateway.token, GATEWAY))
    forward(gateway)
    for node in lab.nodes.values():
        node.start()
    for node in lab.nodes.values():
        node.wait_ready()
    return gateway, a, b


def command(lab: Lab, *arguments: str, text: str | None = None) -> "subprocess.CompletedProcess[str]":
    """Run a command line of dstack-vpn with the key of the registry's owner."""
    node = next(iter(lab.nodes.values()))
    key = lab.run.home / "owner.key"
    if not key.exists():
        key.touch(mode=0o600)
        key.write_text(OWNER_KEY.read_text())
    return subprocess.run(
        node.namespace.command(sys.executable, "-m", "dstack_vpn", *arguments),
        env={**node.settings, "CONTRACT_PRIVATE_KEY_FILE": str(key)},
        input=text,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def check_of(node: LabNode, name: str) -> dict[str, Any]:
    """Return a check of doctor's."""
    done = subprocess.run(
        node.namespace.command(sys.executable, "-m", "dstack_vpn", "doctor", "--json"),
        env=node.environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    (found,) = (check for check in json.loads(done.stdout)["checks"] if check["name"] == name)
    return dict(found)


def setting(config: str, name: str) -> str:
    """Return the value of a setting of a printed configuration."""
    (found,) = (line for line in config.splitlines() if line.startswith(f"{name} = "))
    return found.removeprefix(f"{name} = ")


def ipv6_of(node: LabNode) -> str:
    """Return a node's own IPv6 address in the tunnel."""
    (found,) = (address for address in node.get("/stats")["addresses"] if ":" in address)
    return str(found).partition("/")[0]


class Phone:
    """A machine without dstack-vpn."""

    def __init__(self, lab: Lab, name: str) -> None:
        self.lab, self.name = lab, name
        self.namespace, self.underlay = lab.add_namespace(name)
        self.home = lab.run.home / name
        self.home.mkdir(mode=0o700)
        self.config = self.home / f"{name}.conf"
        self.node = LabNode(name, self.namespace, self.underlay, self.home, 0, {})
        """For its helpers: there is no daemon."""
        (self.home / "resolvconf").write_text(RESOLVCONF)
        (self.home / "resolvconf").chmod(stat.S_IRWXU)
        (self.home / "resolv.conf").touch()
        self.namespace.run("mount", "--bind", self.home / "resolv.conf", "/etc/resolv.conf")

    def join(self, gateway: str) -> None:
        """Register the phone, and bring up the configuration as it was printed."""
        done = command(self.lab, "client", "add", self.name, "--gateway", gateway)
        assert done.returncode == 0, done.stderr
        self.config.touch(mode=0o600)
        self.config.write_text(done.stdout)
        self.up()

    def up(self) -> None:
        """Run ``wg-quick up``."""
        path = f"{self.home}:{self.lab.tools.wireguard_go.parent}:/usr/sbin:/usr/bin:/sbin:/bin"
        environment = (
            f"PATH={path}",
            f"WG_QUICK_USERSPACE_IMPLEMENTATION={self.lab.tools.wireguard_go}",
        )
        # To a file: wireguard-go stays and would keep a pipe open.
        with (self.home / "wg-quick.log").open("ab") as log:
            process = self.namespace.popen(
                *("env", "-i", *environment, "wg-quick", "up", self.config),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        assert process.wait(30) == 0, (self.home / "wg-quick.log").read_text()

    @property
    def public_key(self) -> PublicKey:
        return derive(PrivateKey.parse(setting(self.config.read_text(), "PrivateKey")))

    @property
    def addresses(self) -> tuple[str, str]:
        """Return its tunnel addresses, IPv4 first."""
        found = setting(self.config.read_text(), "Address").split(", ")
        ipv4, ipv6 = (each.partition("/")[0] for each in found)
        return ipv4, ipv6

    @property
    def token(self) -> int:
        return int(self.addresses[0].rpartition(".")[2]) - 1

    def reaches(self, address: str, wait: float = 1.0) -> bool:
        return self.node.reaches(address, wait=wait)

    def wait_reaches(self, *addresses: str) -> None:
        for address in addresses:
            self.node.wait_reaches(address)

    def roam(self, address: str) -> None:
        """Change its address on the network that carries WireGuard's packets."""
        self.namespace.run("ip", "address", "del", f"{self.underlay}/24", "dev", "eth0")
        self.namespace.run("ip", "address", "add", f"{address}/24", "dev", "eth0")
        self.underlay = address

    def resolve(self, name: str) -> set[str]:
        """Return the addresses that the C library finds for a name."""
        found = self.namespace.run("getent", "ahosts", name, check=False)
        return {line.split()[0] for line in found.splitlines()}


def allowed_ips(node: LabNode, key: PublicKey) -> set[str]:
    """Return the addresses of a node's peer."""
    peer = node.device().peers.get(key)
    return set() if peer is None else {cidr.partition("/")[0] for cidr in peer.allowed_ips}


def wait_behind(node: LabNode, gateway: LabNode, phone: Phone) -> None:
    """Wait until a node has the phone's addresses at the gateway's peer."""
    wanted = set(phone.addresses)
    wait_until(
        lambda: wanted <= allowed_ips(node, gateway.public_key), f"{node.name} has {phone.name} behind it"
    )
