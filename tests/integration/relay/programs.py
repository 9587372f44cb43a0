"""The two programs of a relay pair, ours and Mullvad's, started by their command lines.

The benchmarks use this module, too.
"""

import contextlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.netns_support import wait_until

Address = tuple[str, int]
Popen = Callable[..., "subprocess.Popen[str]"]

OURS: Final = (sys.executable, "-m", "dstack_vpn", "relay")
ENVIRONMENT: Final = {
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "HEALTH_CHECK_PORT": "0",
    "LOG_FORMAT": "json",
    "LOG_LEVEL": "info",
    "RUST_LOG": "info",
}
MULLVAD: Final = {role: shutil.which(f"mullvad-{role}") for role in ("udp2tcp", "tcp2udp")}
NO_MULLVAD: Final = "NOT TESTED against Mullvad's: no mullvad-udp2tcp and mullvad-tcp2udp on PATH"


def mullvad_is_there() -> bool:
    """Return whether Mullvad's programs are on PATH."""
    return all(MULLVAD.values())


@dataclass(frozen=True)
class Kind:
    """A pair of programs, ours or Mullvad's, and their options."""

    name: str
    mullvad: bool = False
    scheme: str = "tcp"
    options: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    def command(self, role: str, listen: Address, to: str) -> list[str]:
        """Return the command line. ``to``: a host and port for tcp2udp, a URL for our udp2tcp."""
        where = text(listen)
        if self.mullvad:
            listening, forward = ("udp", "tcp") if role == "udp2tcp" else ("tcp", "udp")
            target = to.removeprefix("tcp://")
            arguments = (f"--{listening}-listen", where, f"--{forward}-forward", target)
            return [str(MULLVAD[role]), *arguments, *self.options]
        url = where if role == "udp2tcp" else f"{self.scheme}://{where}"
        return [*OURS, role, "--listen", url, "--to", to, *self.options]

    @contextlib.contextmanager
    def running(
        self,
        role: str,
        to: str,
        folder: Path,
        *,
        listen: Address = ("127.0.0.1", 0),
        popen: Popen = subprocess.Popen,
        **environment: str,
    ) -> Iterator["Program"]:
        """Start a program and yield it when it listens. Kill it at the end.

        The folder has its log and its state.
        """
        settings = {**ENVIRONMENT, "STATE_DIR": str(folder), **self.environment, **environment}
        said = folder / f"{self.name.replace(' ', '-')}-{role}-{len(list(folder.iterdir()))}.log"
        with said.open("w") as output:
            process = popen(
                self.command(role, listen, to), env=settings, stdout=output, stderr=subprocess.STDOUT
            )
        program = Program(self, role, process, said)
        try:
            wait_until(
                lambda: program.address or process.poll() is not None, f"{self.name} {role} listens", 20
            )
            assert program.address is not None, f"{self.name} {role} ended:\n{said.read_text()}"
            yield program
        finally:
            process.kill()
            process.wait()


OUR_KIND: Final = Kind("ours")
OUR_TLS: Final = Kind("ours over TLS", scheme="tls")
OUR_PLAIN: Final = Kind("ours without offloads", environment={"RELAY_OFFLOAD": "0"})
MULLVADS: Final = Kind("mullvad", mullvad=True, options=("--nodelay",))
MULLVADS_SHIPPED: Final = Kind("mullvad as shipped", mullvad=True)


@dataclass(frozen=True)
class Program:
    """A running program."""

    kind: Kind
    role: str
    process: "subprocess.Popen[str]"
    said: Path

    @property
    def events(self) -> list[dict[str, Any]]:
        """Return the JSON lines of its log so far."""
        complete, _, _ = self.said.read_text().rpartition("\n")
        return [json.loads(line) for line in complete.splitlines() if line.startswith("{")]

    @property
    def address(self) -> Address | None:
        """Return the listening address from its log, or None before it listens."""
        if self.kind.mullvad:
            found = re.search(r"Listening on (\S+):(\d+)/", self.said.read_text())
            return (found[1], int(found[2])) if found else None
        said = self._listening
        return (said["host"], said["port"]) if said else None

    @property
    def url(self) -> str:
        """Return the URL for a udp2tcp. With TLS it has the pin from the log."""
        assert self.address is not None
        url = f"{self.kind.scheme}://{text(self.address)}"
        if self.kind.scheme == "tcp":
            return url
        assert self._listening is not None
        return f"{url}?pin={self._listening['pin']}"

    @property
    def _listening(self) -> dict[str, Any] | None:
        return next((event for event in self.events if event["event"] == "relay.listening"), None)


@contextlib.contextmanager
def pair(
    near: Kind,
    far: Kind,
    target: Address,
    folder: Path,
    *,
    at: tuple[str, str] = ("127.0.0.1", "127.0.0.1"),
    popen: tuple[Popen, Popen] = (subprocess.Popen, subprocess.Popen),
) -> Iterator[tuple[Program, Program]]:
    """Start a udp2tcp and a tcp2udp that lead to a target. ``at``: their listening hosts."""
    with contextlib.ExitStack() as stack:
        second = stack.enter_context(
            far.running("tcp2udp", text(target), folder, listen=(at[1], 0), popen=popen[1])
        )
        first = stack.enter_context(
            near.running("udp2tcp", second.url, folder, listen=(at[0], 0), popen=popen[0])
        )
        yield first, second


def text(address: Address) -> str:
    """Return ``host:port``, with brackets around an IPv6 address."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
