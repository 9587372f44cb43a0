"""A network behind a gateway: a host with an office's addresses, and one of the internet's."""

import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Final

from demo.lab import Lab
from demo.namespaces import connect
from demo.node import LabNode
from tests.netns.clients import Phone, command, ipv6_of

from dstack_vpn.adapters.contracts import calls

OFFICE: Final = ("192.168.7.0/24", "fd07::/64")
HOST: Final = ("192.168.7.5", "fd07::5")
ROUTER: Final = ("192.168.7.1", "fd07::1")
"""The gateway's addresses in the office."""
OTHER: Final = ("192.168.8.5", "fd08::5")
"""Addresses of the same host that the gateway could forward to, and that are in no route."""
PUBLIC: Final = ("9.9.9.9", "2620:fe::fe")
BEYOND: Final = (
    "192.168.7.0/24",
    "192.168.8.0/24",
    "9.9.9.9/32",
    "fd07::/64",
    "fd08::/64",
    "2620:fe::fe/128",
)
"""The destinations outside the VPN that the phone sends to its gateway."""
_SERVER: Final = """
import socket, sys, threading
servers = [
    socket.create_server(("::", int(port)), family=socket.AF_INET6, dualstack_ipv6=True)
    for port in sys.argv[1:]
]
def serve(one, peer):
    with one:
        one.sendall(peer[0].removeprefix("::ffff:").encode().ljust(64))
        while data := one.recv(4096):
            one.sendall(data)
def accept(server):
    while True:
        threading.Thread(target=serve, args=server.accept(), daemon=True).start()
for server in servers:
    threading.Thread(target=accept, args=(server,)).start()
print("up", flush=True)
"""


class Office:
    """A host on a network behind a node."""

    def __init__(self, lab: Lab, gateway: LabNode) -> None:
        self.namespace, _ = lab.add_namespace("office")
        self.gateway = gateway
        self.namespace.run("ip", "link", "del", "eth0")
        ends = (f"{HOST[0]}/24", f"{ROUTER[0]}/24"), (f"{HOST[1]}/64", f"{ROUTER[1]}/64")
        connect(self.namespace, gateway.namespace, *ends, names=("lan0", "office"))
        for address in (*OTHER, *PUBLIC):
            self.namespace.run("ip", "address", "add", address, "dev", "lo")
            version = ("-6",) if ":" in address else ()
            host = HOST[1] if version else HOST[0]
            gateway.namespace.run("ip", *version, "route", "add", address, "via", host)

    def route_back(self) -> None:
        """Give the office a route to the VPN by the gateway."""
        prefix = ipv6_of(self.gateway).partition("::")[0] + "::/48"
        self.namespace.run("ip", "route", "replace", "10.77.0.0/16", "via", ROUTER[0])
        self.namespace.run("ip", "-6", "route", "replace", prefix, "via", ROUTER[1])

    @contextmanager
    def serving(self, *ports: int) -> Iterator[None]:
        """Run servers that first send the address of the client that they see, and then echo."""
        server = self.namespace.popen(
            *(sys.executable, "-c", _SERVER, *map(str, ports)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == "up\n"
            yield
        finally:
            server.kill()
            server.wait(10)


def dial(
    phone: Phone | LabNode, address: str, port: int, wait: float = 1.0
) -> tuple[socket.socket, str] | None:
    """Connect to a server of the office; return the connection, and the address that it sees."""
    with phone.namespace.entered():
        try:
            connection = socket.create_connection((address, port), timeout=wait)
        except OSError:
            return None
    connection.settimeout(wait)
    try:
        return connection, connection.recv(64, socket.MSG_WAITALL).decode().strip()
    except OSError:
        connection.close()
        return None


def source_seen(phone: Phone | LabNode, address: str, port: int, wait: float = 1.0) -> str | None:
    """Return the source address that the office sees for a connection; None without one."""
    found = dial(phone, address, port, wait)
    if found is None:
        return None
    with closing(found[0]):
        return found[1]


def join(phone: Phone, gateway: str) -> None:
    """Register the phone, and bring up its configuration with destinations outside the VPN."""
    done = command(phone.lab, "client", "add", phone.name, "--gateway", gateway)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    edited = [f"{line}, {', '.join(BEYOND)}" if line.startswith("AllowedIPs") else line for line in lines]
    phone.config.touch(mode=0o600)
    phone.config.write_text("\n".join([*edited, ""]))
    phone.up()


def set_routes(lab: Lab, node: LabNode, routes: Sequence[str]) -> None:
    """Set the routes of a node on chain."""
    lab.chain.send(calls.set_routes(node.token, routes))


class Stream:
    """Datagrams from the office to the phone, after the phone has sent one."""

    def __init__(self, phone: Phone, office: Office, port: int) -> None:
        with office.namespace.entered():
            self._office = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self._office.bind((HOST[0], port))
        with phone.namespace.entered():
            self._phone = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self._phone.connect((HOST[0], port))
        for each in (self._office, self._phone):
            each.settimeout(2.0)
        self._phone.send(b"begin")
        _, self._peer = self._office.recvfrom(16)

    def passes(self, wait: float = 0.3) -> bool:
        """Send one datagram; return whether it arrives."""
        self._phone.settimeout(wait)
        self._office.sendto(b"x", self._peer)
        try:
            return self._phone.recv(16) == b"x"
        except TimeoutError:
            return False

    def close(self) -> None:
        self._office.close()
        self._phone.close()
