"""One node of the demo: a namespace, a key, and a real daemon in it.

The times come from the daemon's log: it writes ``peer.set`` and ``peer.removed`` after the device
has acknowledged the change. All namespaces share this machine's clock, so its timestamps can be
compared with this process's.
"""

import base64
import http.client
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from demo.chain import InsideConnection
from demo.journal import LogFile, logged_at
from demo.namespaces import Namespace, wait_until
from dstack_vpn.adapters.device.uapi import GET, GetParser
from dstack_vpn.core.model import DeviceState, TokenId
from dstack_vpn.core.wireguard.keys import KEY_LENGTH, PrivateKey, PublicKey
from dstack_vpn.core.wireguard.x25519 import clamp, derive
from dstack_vpn.errors import AdminError, DstackVpnError

INTERFACE: Final = "wg0"
WIREGUARD_PORT: Final = 51820
HEALTH_PORT: Final = 8080
SOCKET: Final = f"/run/wireguard/{INTERFACE}.sock"
START_TIMEOUT: Final = 60.0
"""The limit in seconds for a daemon's start. It ends the wait for a daemon that hangs. A start
needs about a second of processor time, so it takes several times as long on a busy machine."""
_END_TIMEOUT: Final = 10.0


@dataclass(frozen=True)
class Applied:
    """A change that reached a node's device."""

    node: str
    at: float
    """Unix seconds, from the daemon's log."""
    daemon_ms: float | None
    """Seconds from the event's arrival in the daemon to the acknowledgement; None: by a repair."""


def new_key() -> PrivateKey:
    """Return a new private key."""
    return clamp(secrets.token_bytes(KEY_LENGTH))


def write_secret(path: Path, key: PrivateKey) -> None:
    """Write a private key with access for its owner only; replaces an existing file."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(base64.b64encode(key.reveal()) + b"\n")


@dataclass
class LabNode:
    """A member of the demo's network."""

    name: str
    namespace: Namespace
    underlay: str
    """Its address on the network that carries WireGuard's packets."""
    home: Path
    owner: int
    """The number of the account that holds its token."""
    settings: Mapping[str, str]
    """The part of the daemon's environment that all nodes share."""
    key: PrivateKey = field(default_factory=new_key)
    token: TokenId = 0
    daemon: "subprocess.Popen[str] | None" = None
    program: tuple[str, ...] = ("-m", "dstack_vpn")
    """Python's arguments that run the daemon's command line."""

    @property
    def public_key(self) -> PublicKey:
        """Return the public key."""
        return derive(self.key)

    @property
    def address(self) -> str:
        """Return its tunnel address (docs/operations.md, addresses), for the default range."""
        return f"10.77.0.{self.token + 1}"

    @property
    def endpoint(self) -> str:
        """Return the WireGuard endpoint for the other nodes."""
        return f"{self.underlay}:{WIREGUARD_PORT}"

    @property
    def dashboard(self) -> str:
        """Return the URL of its dashboard, for a browser in its namespace."""
        return f"http://127.0.0.1:{HEALTH_PORT}/"

    @property
    def log(self) -> Path:
        """Return the path of the daemon's log, over all of its runs."""
        return self.home / "daemon.log"

    @cached_property
    def journal(self) -> LogFile:
        """Return the reader of that log."""
        return LogFile(self.log)

    @property
    def key_file(self) -> Path:
        """Return the path of the daemon's private key."""
        return self.home / "wireguard.key"

    @property
    def config(self) -> Path:
        """Return the path of the wg-quick file that the daemon writes."""
        return self.home / f"{INTERFACE}.conf"

    # -- the daemon --------------------------------------------------------------------------------

    def environment(self) -> dict[str, str]:
        """Return the daemon's settings, without secrets."""
        return {
            **self.settings,
            "NODE_ID": self.name,
            "WIREGUARD_PRIVATE_KEY_FILE": str(self.key_file),
            "STATE_DIR": str(self.home / "state"),
            "WIREGUARD_CONFIG": str(self.config),
            "INTERFACE": INTERFACE,
            "LISTEN_PORT": str(WIREGUARD_PORT),
            "HEALTH_CHECK_PORT": str(HEALTH_PORT),
        }

    def start(self, **more: str) -> None:
        """Start the daemon with the current key; ``more`` are additional settings."""
        self.home.mkdir(mode=0o700, exist_ok=True)
        write_secret(self.key_file, self.key)
        with self.log.open("ab") as log:
            self.daemon = self.namespace.popen(
                *(sys.executable, *self.program, "run"),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment() | more,
                start_new_session=True,
            )

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Stop the daemon; returns its exit code."""
        if self.daemon is None:
            return 0
        daemon, self.daemon = self.daemon, None
        daemon.send_signal(number)
        try:
            return daemon.wait(_END_TIMEOUT)
        except subprocess.TimeoutExpired:
            daemon.kill()
            raise AdminError(f"the daemon of {self.name} did not end within {_END_TIMEOUT:g} s") from None

    def signal(self, number: signal.Signals) -> None:
        """Send the daemon a signal."""
        if self.daemon is not None:
            self.daemon.send_signal(number)

    def wait_ready(self, timeout: float = START_TIMEOUT) -> None:
        """Wait until the daemon reports that the tunnel is up and the chain is followed."""

        def ready() -> bool:
            if self.daemon is not None and self.daemon.poll() is not None:
                output = self.log.read_text(errors="replace")[-2000:]
                raise AdminError(f"the daemon of {self.name} has ended. Its output ({self.log}):\n{output}")
            return self.health().get("status") == "ok"

        wait_until(ready, f"the daemon of {self.name} is ready (its log: {self.log})", timeout)

    # -- what it says ------------------------------------------------------------------------------

    def get(self, path: str) -> dict[str, Any]:
        """Query the daemon's HTTP API; returns an empty document without a reply."""
        connection = InsideConnection(self.namespace.socket, "127.0.0.1", HEALTH_PORT, 3.0)
        try:
            connection.request("GET", path)
            document = json.loads(connection.getresponse().read())
        except (OSError, http.client.HTTPException, ValueError):
            return {}
        finally:
            connection.close()
        return document if isinstance(document, dict) else {}

    def health(self) -> dict[str, Any]:
        """Return the daemon's health."""
        return self.get("/health")

    def component(self, name: str) -> tuple[str, str]:
        """Return a component's status and reason; empty without a reply."""
        found = (part for part in self.health().get("components", ()) if part["name"] == name)
        return next(((part["status"], part["reason"]) for part in found), ("", ""))

    def device(self) -> DeviceState:
        """Return its WireGuard state without the daemon; raises `DstackVpnError` if missing."""
        parser = GetParser()
        with self.namespace.entered(), socket.socket(socket.AF_UNIX) as channel:
            channel.settimeout(3.0)
            try:
                channel.connect(SOCKET)
                channel.sendall(GET)
                answer = b""
                while not answer.endswith(b"\n\n") and (piece := channel.recv(65536)):
                    answer += piece
            except OSError as error:
                raise AdminError(f"{self.name} has no WireGuard device: {error}") from error
        parser.feed(answer)
        return parser.state()

    def has_peer(self, key: PublicKey) -> bool:
        """Return True if its WireGuard has that peer; False without a device."""
        try:
            return key in self.device().peers
        except DstackVpnError:
            return False

    def wait_applied(self, key: PublicKey, since: float, *, gone: bool, timeout: float) -> Applied:
        """Wait until a peer was added to, or removed from, the device; the log has the time."""
        event, verb = ("peer.removed", "lose") if gone else ("peer.set", "get")
        what = f"node {self.name} should {verb} the peer {str(key)[:8]}… (its log: {self.log})"
        wait_until(lambda: self.journal.find(event, since, peer=str(key)), what, timeout)
        wait_until(lambda: self.has_peer(key) is not gone, what, timeout)
        entry = self.journal.find(event, since, peer=str(key))
        assert entry is not None
        return Applied(self.name, logged_at(entry), entry["latency_ms"])

    def wait_enforced(self, since: float, timeout: float, *, new: bool = False) -> Applied:
        """Wait until the packet filter has rules of a change; ``new``: of another policy."""
        what = f"node {self.name} should enforce the policy (its log: {self.log})"
        if new:
            wait_until(lambda: self.journal.find("policy.in_force", since), what, timeout)
            entry = self.journal.find("policy.in_force", since)
            assert entry is not None
            since = logged_at(entry)
        wait_until(lambda: self.journal.find("policy.applied", since), what, timeout)
        entry = self.journal.find("policy.applied", since)
        assert entry is not None
        return Applied(self.name, logged_at(entry), entry["latency_ms"])

    def place_of(self, key: PublicKey) -> str | None:
        """Return WireGuard's endpoint for a peer; None if it is unknown."""
        peer = self.device().peers.get(key)
        return None if peer is None or peer.endpoint is None else str(peer.endpoint)

    # -- what it reaches ---------------------------------------------------------------------------

    def reaches(self, address: str, *, wait: float = 1.0) -> bool:
        """Return True if one ping to an address is answered within ``wait`` seconds."""
        command = self.namespace.command("ping", "-n", "-c", "1", "-W", str(wait), address)
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def wait_reaches(self, address: str, timeout: float = 10.0) -> None:
        """Wait until a ping to an address is answered."""
        wait_until(lambda: self.reaches(address, wait=0.2), f"{self.name} reaches {address}", timeout)

    def fetch(self, address: str, port: int, path: str = "/") -> str:
        """Fetch a page from inside the namespace; raises `AdminError` without a reply."""
        connection = InsideConnection(self.namespace.socket, address, port, 3.0)
        try:
            connection.request("GET", path)
            return connection.getresponse().read().decode()
        except (OSError, http.client.HTTPException) as error:
            raise AdminError(f"http://{address}:{port}{path}: {error}") from error
        finally:
            connection.close()
