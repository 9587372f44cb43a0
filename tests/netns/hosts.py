"""A host in a namespace, with a daemon that follows no chain, for tests of its effects."""

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from demo.node import new_key, write_secret
from tests.commands import forgotten_logging, run_here
from tests.netns_support import Namespace, wait_until, wireguard_go

from dstack_vpn.core.wireguard.keys import PrivateKey, PublicKey
from dstack_vpn.core.wireguard.x25519 import derive
from dstack_vpn.errors import AdminError

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def program() -> str:
    """Return the path of wireguard-go."""
    found = wireguard_go()
    assert found is not None
    return found


@dataclass
class Host:
    """A namespace, a folder for files outside of state directories, and other programs."""

    namespace: Namespace
    etc: Path
    others: list["subprocess.Popen[str]"] = field(default_factory=list)

    def ip(self, *words: str) -> str:
        return self.namespace.run("ip", *words)

    def link(self, name: str, kind: str, *more: str) -> None:
        """Add an interface and bring it up."""
        self.ip("link", "add", name, "type", kind, *more)
        self.ip("link", "set", name, "up")

    def wireguard(self, name: str, key: PrivateKey | None, *peers: PublicKey, port: int = 40000) -> None:
        """Run a wireguard-go, as another program would."""
        self.others.append(self.namespace.popen(program(), "-f", name, stderr=subprocess.DEVNULL))
        wait_until(lambda: self.namespace.run("wg", "show", name, check=False), f"{name} runs")
        if key is None:
            return
        file = self.etc / f"{name}.key"
        write_secret(file, key)
        self.namespace.run("wg", "set", name, "listen-port", str(port), "private-key", file)
        for number, peer in enumerate(peers, 2):
            self.namespace.run("wg", "set", name, "peer", str(peer), "allowed-ips", f"10.8.0.{number}/32")
        self.ip("address", "add", "10.8.0.1/24", "dev", name)
        self.ip("link", "set", name, "up")

    def state(self) -> dict[str, str]:
        """Return the host's interfaces, routes, rules and files, after the carriers are up."""
        run = self.namespace.run
        wait_until(self._is_settled, "the carriers are up")
        found = {
            "addresses": run("ip", "-j", "address"),
            "links": run("sh", "-c", "ip -d -o link | sed 's/ qlen .*//'"),
            "routes": run("ip", "-j", "-4", "route", "show", "table", "all"),
            "IPv6 routes": run("ip", "-j", "-6", "route", "show", "table", "all"),
            "rules": run("nft", "list", "ruleset"),
            # The order of peers from wireguard-go varies.
            "wg": "\n".join(sorted(run("wg", "show", "all", "dump").splitlines())),
            "sockets": run("ls", "-A", "/run/wireguard"),
        }
        for path in sorted(self.etc.rglob("*")):
            if path.is_file():
                status = path.stat()
                found[str(path)] = f"{status.st_mode:o} {status.st_uid} {path.read_bytes()!r}"
        return found

    def _is_settled(self) -> bool:
        links = json.loads(self.ip("-j", "link"))
        return all(link["operstate"] == "UP" for link in links if link["ifname"] in {"eth0", "switch"})

    def close(self) -> None:
        for other in self.others:
            other.kill()
            other.wait(10)


@dataclass
class Daemon:
    """A daemon that was started on a host."""

    process: "subprocess.Popen[str]"
    log: Path

    def lines(self) -> list[dict[str, Any]]:
        found = []
        for line in self.log.read_text().splitlines():
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
        return found

    def has(self, event: str) -> bool:
        if self.process.poll() is not None:
            raise AdminError(f"the daemon has ended: {self.log.read_text()}")
        return any(line.get("event") == event for line in self.lines())

    def wait_up(self) -> None:
        wait_until(lambda: self.has("device.up"), "the device is up")
        wait_until(lambda: self.has("firewall.applied"), "the rules are set")

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Stop the daemon by a signal; return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(15)


@dataclass
class Member:
    """A node with a state directory and a key, which a test can start repeatedly."""

    home: Path
    key: PrivateKey = field(default_factory=new_key)
    starts: int = 0

    @property
    def public_key(self) -> PublicKey:
        return derive(self.key)

    def environment(self, host: Host, settings: Mapping[str, str]) -> dict[str, str]:
        self.home.mkdir(exist_ok=True, mode=0o700)
        write_secret(self.home / "wireguard.key", self.key)
        return {
            "PATH": f"{Path(program()).parent}:{_PATH}",
            "NETWORK": "local",
            "RPC_URL": "ws://127.0.0.1:1",
            "BACKEND": "userspace",
            "LOG_FORMAT": "json",
            "LEAK_PROTECTION": "on",
            "WIREGUARD_PRIVATE_KEY_FILE": str(self.home / "wireguard.key"),
            "STATE_DIR": str(self.home / "state"),
            "WIREGUARD_CONFIG": str(self.home / "state" / "wg0.conf"),
            "HEALTH_CHECK_PORT": "0",
            "DNS_PORT": "0",
            **settings,
        }

    def start(self, host: Host, *prefix: str, **settings: str) -> Daemon:
        """Start the daemon. ``prefix``: a command that enters other namespaces than the host's."""
        self.starts += 1
        environment = self.environment(host, settings)
        log = self.home / f"daemon{self.starts}.log"
        command = [sys.executable, "-m", "dstack_vpn", "run"]
        command = [*prefix, *command] if prefix else host.namespace.command(*command)
        with log.open("w") as file:
            process = subprocess.Popen(command, env=environment, stdout=file, stderr=file, text=True)
        host.others.append(process)
        return Daemon(process, log)

    def refused(self, host: Host, *prefix: str, **settings: str) -> str:
        """Check for exit code 78 and an unchanged host; return the daemon's log."""
        before = host.state()
        daemon = self.start(host, *prefix, **settings)
        code = daemon.process.wait(30)
        text = daemon.log.read_text()
        assert code == 78, (code, text)
        assert "Something on this host conflicts with the node; nothing was changed" in text
        assert host.state() == before
        return text

    def doctor(self, host: Host, **settings: str) -> dict[str, dict[str, Any]]:
        """Return the doctor's checks by name."""
        with host.namespace.entered(), forgotten_logging():
            done = run_here(("doctor", "--json"), self.environment(host, settings))
        assert done.out, done.err
        return {check["name"]: check for check in json.loads(done.out)["checks"]}


@contextlib.contextmanager
def hosted(etc: Path) -> Iterator[Host]:
    """Yield a host with a LAN and default routes."""
    etc.mkdir()
    with Namespace("h") as namespace:
        host = Host(namespace, etc)
        for scope in ("all", "default"):
            # Otherwise the kernel generates addresses, and checks them for a second.
            namespace.run("sysctl", "-qw", f"net.ipv6.conf.{scope}.accept_dad=0")
            namespace.run("sysctl", "-qw", f"net.ipv6.conf.{scope}.addr_gen_mode=1")
        host.link("eth0", "veth", "peer", "switch")
        host.ip("link", "set", "switch", "up")
        host.ip("address", "add", "192.168.5.2/24", "dev", "eth0")
        host.ip("address", "add", "fd99::2/64", "dev", "eth0")
        host.ip("route", "add", "default", "via", "192.168.5.1")
        host.ip("route", "add", "default", "via", "fd99::1")
        try:
            yield host
        finally:
            host.close()
