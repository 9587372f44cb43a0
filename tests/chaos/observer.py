"""A thread that samples all devices continuously for the invariants."""

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
from tests.chaos.invariants import Client, Invariants

_LOOK: Final = 0.008
"""Seconds between samples."""


@dataclass(frozen=True, slots=True)
class Token:
    """A token's state in the contract."""

    id: int
    owner: str
    name: str
    key: str
    expires_at: int
    tags: int = 0
    via: str = ""
    """The gateway of a plain client."""
    routes: bool = False

    @property
    def address(self) -> str:
        """Return the IPv4 address in the tunnel (docs/operations.md, addresses)."""
        return str(IPv4Address("10.77.0.0") + self.id + 1)


class Observer(threading.Thread):
    """A thread that samples all devices continuously for the invariants."""

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
        """Sample the devices until `stop`."""
        try:
            while not self._ended.wait(_LOOK):
                self._expire()
                for name, node in self._nodes.items():
                    self._look(name, node.namespace)
        except BaseException as error:
            self.failure = error
            raise

    def stop(self) -> None:
        """End the thread."""
        self._ended.set()
        self.join(10)

    @contextlib.contextmanager
    def locked(self) -> Iterator[Invariants]:
        """Yield the invariants, and exclude other threads from them."""
        with self._lock:
            yield self.invariants

    def blind(self, name: str, *, blind: bool) -> None:
        """Skip a node whose device is suspended and cannot reply, or sample it again."""
        with self._lock:
            (self._blind.add if blind else self._blind.discard)(name)

    def contract(self, tokens: Sequence[Token], since: float) -> None:
        """Record the contract's state from ``since`` (monotonic seconds) on."""
        with self._lock:
            self._tokens = tokens
            self.invariants.contract(_members(tokens), since, _clients(tokens))

    def _expire(self) -> None:
        members = _members(self._tokens)
        with self._lock:
            if members.keys() != self.invariants.members.keys():
                self.invariants.contract(members, time.monotonic(), self.invariants.clients)

    def _look(self, name: str, namespace: Namespace) -> None:
        if name in self._blind:
            return
        peers = peers_of(namespace)
        with self._lock:
            if name not in self._blind:
                self.invariants.sample(name, peers, time.monotonic())


def _members(tokens: Sequence[Token]) -> dict[str, str]:
    """Return the tunnel addresses by the keys of the current members."""
    now = time.time()  # noqa: TID251 - expiry is compared with the machine's clock
    return {
        token.key: token.address
        for token in tokens
        if token.key and not token.via and not 0 < token.expires_at < now
    }


def _clients(tokens: Sequence[Token]) -> dict[str, Client]:
    """Return the plain clients by their keys. Their access does not expire here."""
    keys = {token.name: token.key for token in tokens}
    return {token.key: Client(token.address, keys[token.via]) for token in tokens if token.via}


def peers_of(namespace: Namespace) -> dict[str, frozenset[str]] | None:
    """Return a device's peers from WireGuard's control socket; None if the device is missing."""
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
