"""A compose stack of this project, as the demos, the tests and the benchmarks drive it.

Every stack has a project name of its own, so that several never meet, and leaves nothing behind but
images.
"""

import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

ROOT: Final = Path(__file__).parents[1]
OWNER: Final = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"
"""anvil's first account."""
IMAGE: Final = "dstack-vpn/wireguard:local"
DOCKERFILE: Final = ROOT / "docker" / "Dockerfile"
OWN_BASE: Final = ROOT / ".cache" / "docker-base"
_T = TypeVar("_T")


class DockerError(Exception):
    """A docker command that failed, with what it said."""


def own_base() -> str | None:
    """The base image that scripts/setup-docker made, if the pinned one could not be pulled."""
    return OWN_BASE.read_text().strip() if OWN_BASE.exists() else None


def base_image() -> str:
    """The image that all images are built on."""
    pinned = re.search(r"^ARG DSTACK_VPN_BASE=(\S+)$", DOCKERFILE.read_text(), re.MULTILINE)
    assert pinned is not None
    return own_base() or pinned[1]


def _with_base() -> list[str]:
    own = own_base()
    return [] if own is None else [f"DSTACK_VPN_BASE={own}"]


def docker(*arguments: str, check: bool = True, timeout: float = 600, stdin: str | None = None) -> str:
    """Run docker; its standard output. Raises `DockerError`."""
    more = ("--build-arg", "DSTACK_VPN_BASE") if arguments[0] == "build" and own_base() else ()
    done = subprocess.run(
        ["env", *_with_base(), "docker", *arguments[:1], *more, *arguments[1:]],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        input="" if stdin is None else stdin,
    )
    if check and done.returncode:
        raise DockerError(f"docker {' '.join(arguments)}: {done.stderr[-3000:] or done.stdout[-3000:]}")
    return done.stdout if check else done.stdout + done.stderr


def wait_for(what: str, look: Callable[[], _T | None], timeout: float = 60.0, pause: float = 0.1) -> _T:
    """What ``look`` finds at last; raises `DockerError` after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > deadline:
            raise DockerError(f"not within {timeout:g} s: {what}")
        time.sleep(pause)


def logs(container: str) -> list[str]:
    """A container's log lines, of both streams."""
    return docker("logs", container, check=False).splitlines()


def documents(container: str) -> Iterator[dict[str, Any]]:
    """Those of a container's log lines that are JSON."""
    for line in logs(container):
        if line.startswith("{"):
            yield json.loads(line)


def inspect(container: str) -> dict[str, Any]:
    """What docker knows of a container or image."""
    (found,) = json.loads(docker("inspect", container))
    return dict(found)


def health(container: str) -> str:
    """Such as ``healthy``; the container's state where it has no health check."""
    state = inspect(container)["State"]
    return str(state.get("Health", {}).get("Status", state["Status"]))


def wait_healthy(*containers: str, timeout: float = 90.0) -> None:
    """Wait until all of them are healthy; raises `DockerError` with the logs of one that is not."""
    for container in containers:
        try:
            wait_for(f"{container} is healthy", lambda c=container: health(c) == "healthy", timeout)  # type: ignore[misc]  # bound now
        except DockerError as error:
            checks = inspect(container)["State"].get("Health", {}).get("Log", [])[-1:]
            raise DockerError(f"{error}\n{checks}\n" + "\n".join(logs(container)[-30:])) from error


@dataclass
class Stack:
    """A compose project."""

    project: str
    files: Sequence[str] = ("docker-compose.yml",)
    environment: Mapping[str, str] = field(default_factory=dict)
    """For what the files interpolate."""

    def compose(self, *arguments: str, check: bool = True, timeout: float = 600) -> str:
        """Run docker compose on it."""
        files = [option for file in self.files for option in ("-f", file)]
        settings = [*_with_base(), *(f"{name}={value}" for name, value in self.environment.items())]
        command = ["docker", "compose", "--ansi", "never", "-p", self.project, *files, *arguments]
        done = subprocess.run(
            ["env", *settings, *command],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if check and done.returncode:
            raise DockerError(f"{' '.join(command)}: {done.stderr[-3000:] or done.stdout[-3000:]}")
        return done.stdout if check else done.stdout + done.stderr

    def container(self, service: str) -> str:
        """The id of a service's container, running or not."""
        return self.compose("ps", "-aq", service).strip().splitlines()[0]

    def containers(self, *services: str) -> list[str]:
        """The ids of the running containers."""
        return self.compose("ps", "-q", *services).split()

    def exec(self, service: str, *command: str, check: bool = True) -> str:
        """Run a command in a service's container."""
        return docker("exec", self.container(service), *command, check=check)

    def node(self, *arguments: str) -> str:
        """A command of dstack-vpn in the dev chain's container, which may sign."""
        return self.exec("devchain", "dstack-vpn", *arguments)

    def status(self, service: str) -> dict[str, Any]:
        """What a node says of itself: ``health`` and ``stats``."""
        return dict(json.loads(self.exec(service, "dstack-vpn", "status", "--json")))

    def down(self) -> None:
        """Take everything away."""
        self.compose("--profile", "*", "down", "-v", "-t", "3", "--remove-orphans", check=False)


@contextmanager
def running(stack: Stack, *services: str, build: bool = True) -> Iterator[Stack]:
    """The stack, up and healthy; taken away at the end, whatever happens."""
    try:
        stack.compose("up", "-d", "--wait", *(["--build"] if build else []), *services)
        yield stack
    finally:
        stack.down()


if __name__ == "__main__":
    Stack("dstack-vpn").compose("build", "-q", timeout=3600)
