"""An office: a namespace behind a node, with a machine that others reach by the node."""

from ipaddress import ip_interface

from demo.lab import Lab
from demo.namespaces import Namespace, connect
from demo.node import LabNode

NETWORK, NETWORK6 = "10.90.0.0/24", "fd90::/64"
MACHINE, MACHINE6 = "10.90.0.10", "fd90::10"


def open_office(
    lab: Lab, node: LabNode, machine: str = MACHINE, machine6: str = MACHINE6, *, forward: bool = True
) -> None:
    """Create the machine behind a node; with ``forward``, the node's machine forwards packets."""
    namespace = Namespace(name=lab.run.name(f"office-{node.name}"))
    lab.namespaces.append(namespace)
    namespace.__enter__()
    connect(
        node.namespace,
        namespace,
        (f"{_first(machine)}/24", f"{machine}/24"),
        (f"{_first(machine6)}/64", f"{machine6}/64"),
        names=("office", "eth0"),
    )
    for name in ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding") if forward else ():
        node.namespace.run("sysctl", "-qw", f"{name}=1")


def _first(machine: str) -> str:
    """Return the gateway's address in the network of a machine."""
    return str(next(ip_interface(f"{machine}/{64 if ':' in machine else 24}").network.hosts()))
