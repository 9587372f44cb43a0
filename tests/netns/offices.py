"""An office: a namespace behind a node, with a machine that others reach by the node."""

from dataclasses import dataclass
from typing import Final

from demo.lab import Lab
from demo.namespaces import Namespace, connect
from demo.node import LabNode

NETWORK, NETWORK6 = "10.90.0.0/24", "fd90::/64"
MACHINE, MACHINE6 = "10.90.0.10", "fd90::10"
_GATEWAY, _GATEWAY6 = "10.90.0.1", "fd90::1"
VPN: Final = ("10.77.0.0/16", "fd00::/8")


@dataclass(frozen=True)
class Office:
    """The machine behind a node."""

    namespace: Namespace
    node: LabNode


def open_office(lab: Lab, node: LabNode) -> Office:
    """Create the machine behind a node, which forwards to it. The machine has a route back."""
    namespace = Namespace(name=lab.run.name(f"office-{node.name}"))
    lab.namespaces.append(namespace)
    namespace.__enter__()
    connect(
        node.namespace,
        namespace,
        (f"{_GATEWAY}/24", f"{MACHINE}/24"),
        (f"{_GATEWAY6}/64", f"{MACHINE6}/64"),
        names=("office", "eth0"),
    )
    for name in ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"):
        node.namespace.run("sysctl", "-qw", f"{name}=1")
    for family, to, by in (("-4", VPN[0], _GATEWAY), ("-6", VPN[1], _GATEWAY6)):
        namespace.run("ip", family, "route", "add", to, "via", by)
    return Office(namespace, node)
