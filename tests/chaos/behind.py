"""A plain client, a network behind two nodes, and the internet behind an exit.

    phone    a plain client; its gateway is c
    office   a network behind c and a; c has the lower token id, and is used while it is alive
    net      the internet, behind b alone
    m        a node that accepts the office's network, and leaves by b

m and the phone send all the time. A packet on m's uplink that is not control traffic has leaked.
"""

import base64
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

from demo.lab import Lab
from demo.namespaces import Namespace, connect, wait_until
from demo.node import INTERFACE, WIREGUARD_PORT, LabNode, new_key
from tests.netns.capture import Capture, Seen

from dstack_vpn.core.wireguard.keys import PrivateKey
from dstack_vpn.core.wireguard.x25519 import derive

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.chaos.observer import Token

PHONE: Final = "phone"
GATEWAY: Final = "c"
"""The gateway of the phone, and the preferred one of the office."""
OFFICES: Final = ("c", "a")
EXIT: Final = "b"
USER: Final = "m"
OFFICE: Final = "192.168.7.0/24"
HOST: Final = "192.168.7.5"
INTERNET: Final = "9.9.9.9"
SETTINGS: Final = {"EXIT_NODE": EXIT, "ACCEPT_ROUTES": OFFICE}
"""The settings of m."""
_VPN: Final = "10.77.0.0/16"
_CHATTER: Final = """
import socket, sys, time
one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
one.setblocking(False)
while True:
    for to in sys.argv[1:]:
        try:
            one.sendto(b"secret", (to, 443))
        except OSError:
            pass
    time.sleep(0.02)
"""


class Leaks(Capture):
    """The packets that leave by an interface, without those to some addresses."""

    def __init__(self, namespace: Namespace, interface: str, allowed: frozenset[str]) -> None:
        super().__init__(namespace, interface)
        self._allowed = allowed

    def wants(self, packet: Seen) -> bool:
        """Return whether a packet has leaked."""
        return packet.destination not in self._allowed and not packet.destination.startswith("ff")


class Phone:
    """A machine with WireGuard alone."""

    def __init__(self, lab: Lab, gateway: LabNode) -> None:
        self.namespace, underlay = lab.add_namespace(PHONE)
        self.node = LabNode(PHONE, self.namespace, underlay, lab.run.home / PHONE, 0, {})
        """For its pings: there is no daemon."""
        self.key: PrivateKey = new_key()
        self._address = ""
        with (lab.run.home / "phone.log").open("wb") as log:
            self.namespace.popen(
                *(lab.tools.wireguard_go, "-f", INTERFACE),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        run = self.namespace.run
        wait_until(lambda: INTERFACE in run("wg", "show", "interfaces"), "the phone has an interface")
        peer = ("peer", str(gateway.public_key), "endpoint", f"{gateway.underlay}:{WIREGUARD_PORT}")
        run("wg", "set", INTERFACE, *peer, "allowed-ips", f"{_VPN},{OFFICE}", "persistent-keepalive", "1")

    def take(self, key: PrivateKey, address: str) -> None:
        """Use another key and another address."""
        run, self.key = self.namespace.run, key
        text = base64.b64encode(key.reveal()).decode()
        run("wg", "set", INTERFACE, "private-key", "/dev/stdin", text=text)
        run("ip", "address", "flush", "dev", INTERFACE)
        run("ip", "address", "add", f"{address}/32", "dev", INTERFACE)
        run("ip", "link", "set", INTERFACE, "mtu", "1380", "up")
        for network in (_VPN, OFFICE):
            run("ip", "route", "replace", network, "dev", INTERFACE)
        self._address = address

    def is_token(self, token: "Token") -> bool:
        """Return whether a token is the phone's present one, with its gateway."""
        key = str(derive(self.key))
        return (token.key, token.address, token.via) == (key, self._address, GATEWAY)


@dataclass
class Behind:
    """The client, the network and the internet behind the nodes."""

    lab: Lab
    phone: Phone
    leaks: Leaks
    _chatters: "list[subprocess.Popen[str]]" = field(default_factory=list)

    @classmethod
    def build(cls, lab: Lab, control: frozenset[str]) -> "Behind":
        """Connect everything to the nodes, which are not running. ``control`` may be reached by m
        beside the exit.
        """
        nodes, office, net = lab.nodes, lab._new_namespace("office"), lab._new_namespace("net")
        for namespace, address in ((office, HOST), (net, INTERNET)):
            namespace.run("ip", "link", "add", "core", "type", "bridge")
            namespace.run("ip", "link", "set", "core", "up")
            namespace.run("ip", "address", "add", f"{address}/24", "dev", "core")
        ends = ((office, "c", "192.168.7.1"), (office, "a", "192.168.7.2"), (net, "b", "9.9.9.1"))
        for namespace, name, address in ends:
            inside = nodes[name].namespace
            connect(inside, namespace, (f"{address}/24", ""), names=("behind", f"to-{name}"))
            namespace.run("ip", "link", "set", f"to-{name}", "master", "core")
            inside.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
        user = nodes[USER]
        user.namespace.run("ip", "route", "add", "default", "via", lab.chain.address)
        user.namespace.run("sysctl", "-qw", "net.ipv4.conf.all.src_valid_mark=1")
        allowed = control | {user.underlay, *(node.underlay for node in nodes.values())}
        leaks = Leaks(lab.chain.namespace, f"to-{USER}", frozenset(allowed))
        return cls(lab, Phone(lab, nodes[GATEWAY]), leaks)

    def begin(self) -> None:
        """Send and capture from now on."""
        self.leaks.__enter__()
        nodes = self.lab.nodes
        sends = ((nodes[USER].namespace, (INTERNET, HOST)), (self.phone.namespace, (nodes["b"].address,)))
        for namespace, targets in sends:
            chatter = namespace.popen(sys.executable, "-c", _CHATTER, *targets, stdin=subprocess.DEVNULL)
            self._chatters.append(chatter)

    def close(self) -> None:
        """End the programs and the capture."""
        for chatter in self._chatters:
            chatter.kill()
        if isinstance(getattr(self.leaks, "_thread", None), threading.Thread):
            self.leaks.__exit__(None, None, None)

    def expectations(self, tokens: "dict[str, Token]") -> "Iterator[tuple[str, str, Callable[[], bool]]]":
        """Yield what the contract's state permits and forbids: a node, a problem, and its check."""
        nodes, phone = self.lab.nodes, self.phone
        token = tokens.get(PHONE)
        if token is None:
            yield (
                PHONE,
                "is revoked, and reaches b",
                lambda: not phone.node.reaches(nodes["b"].address, wait=0.2),
            )
        elif phone.is_token(token):
            yield PHONE, "does not reach b", partial(phone.node.reaches, nodes["b"].address, wait=0.2)
            yield PHONE, "is not reached by b", partial(nodes["b"].reaches, token.address, wait=0.2)
            if tokens[GATEWAY].routes:
                yield PHONE, "does not reach the office", partial(phone.node.reaches, HOST, wait=0.2)
            else:
                yield (
                    PHONE,
                    "reaches an office without a route",
                    lambda: not phone.node.reaches(HOST, wait=0.2),
                )
        user = nodes[USER]
        if any(tokens[name].routes for name in OFFICES):
            yield USER, "does not reach the office", partial(user.reaches, HOST, wait=0.2)
        else:
            yield USER, "reaches an office without a route", lambda: not user.reaches(HOST, wait=0.2)
        yield USER, "does not reach the internet", partial(user.reaches, INTERNET, wait=0.2)
