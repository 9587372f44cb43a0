"""Looks at every device again and again, and has the invariants judge what it sees: a thread of its own."""

import contextlib
import socket
import threading
import time
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final

from demo.namespaces import Namespace
from demo.node import SOCKET, LabNode
from tests.chaos.invariants import Invariants

_LOOK: Final = 0.008
"""Seconds between looks."""


@dataclass(frozen=True, slots=True)
class Token:
    """What the contract says of a token."""

    id: int
    owner: str
    name: str
    key: str
    expires_at: int

    @property
    def address(self) -> str:
        """Its IPv4 address in the tunnel (docs/operations.md, addresses)."""
        return str(IPv4Address("10.77.0.0") + self.id + 1)


class Observer(threading.Thread):
    """Looks at every device again and again, and has the invariants judge what it sees."""

    def __init__(self, nodes: Mapping[str, LabNode]) -> None:
        super().__init__(name="observer", daemon=True)
        self.invariants = Invariants({name: str(node.public_key) for name, node in nodes.items()})
        self.failure: BaseException | None = None
        self._nodes = nodes
        self._tokens: Sequence[Token] = ()
        self._blind: set[str] = set()
        self._lock = threading.Lock()
        self._ended = threading.Event()

    def run(self) -> None:
        """Look until `stop`."""
        try:
            while not self._ended.wait(_LOOK):
                self._expire()
                for name, node in self._nodes.items():
                    self._look(name, node.namespace)
        except BaseException as error:
            self.failure = error
            raise

    def stop(self) -> None:
        """End it."""
        self._ended.set()
        self.join(10)

    @contextlib.contextmanager
    def judging(self) -> Iterator[Invariants]:
        """The invariants, while nobody else uses them."""
        with self._lock:
            yield self.invariants

    def blind(self, name: str, *, blind: bool) -> None:
        """Leave a node out whose device can't answer, because it is suspended."""
        with self._lock:
            (self._blind.add if blind else self._blind.discard)(name)

    def contract(self, tokens: Sequence[Token], since: float) -> None:
        """What the contract says from ``since`` (monotonic seconds) on."""
        with self._lock:
            self._tokens = tokens
            self.invariants.contract(_members(tokens), since)

    def _expire(self) -> None:
        members = _members(self._tokens)
        with self._lock:
            if members.keys() != self.invariants.members.keys():
                self.invariants.contract(members, time.monotonic())

    def _look(self, name: str, namespace: Namespace) -> None:
        if name in self._blind:
            return
        peers = peers_of(namespace)
        with self._lock:
            if name not in self._blind:
                self.invariants.sample(name, peers, time.monotonic())


def _members(tokens: Sequence[Token]) -> dict[str, str]:
    """The tunnel addresses of the keys that are members now."""
    now = time.time()  # noqa: TID251 - access ends by the machine's clock
    return {token.key: token.address for token in tokens if token.key and not 0 < token.expires_at < now}


def peers_of(namespace: Namespace) -> dict[str, frozenset[str]] | None:
    """A device's peers, by WireGuard's cross-platform interface; None where there is no device."""
    with namespace.entered(), socket.socket(socket.AF_UNIX) as channel:
        channel.settimeout(2.0)
        try:
            channel.connect(SOCKET)
            channel.sendall(b"get=1\n\n")
            answer = b""
            while not answer.endswith(b"\n\n") and (piece := channel.recv(65536)):
                answer += piece
        except OSError:
            return None
    if not answer.endswith(b"errno=0\n\n"):
        return None
    found: dict[str, set[str]] = {}
    key = ""
    for line in answer.decode().splitlines():
        name, _, value = line.partition("=")
        if name == "public_key":
            key = b64encode(bytes.fromhex(value)).decode()
            found[key] = set()
        elif name == "allowed_ip":
            found[key].add(value)
    return {key: frozenset(addresses) for key, addresses in found.items()}
