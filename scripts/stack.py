"""Compose stacks of this project, for the demos, the tests and the benchmarks.

Each stack has a separate project name, so that several can run at once. It leaves only images
behind.
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
"""The address of anvil's first account."""
IMAGE: Final = "dstack-vpn/wireguard:local"
DOCKERFILE: Final = ROOT / "docker" / "Dockerfile"
OWN_BASE: Final = ROOT / ".cache" / "docker-base"
_T = TypeVar("_T")


class DockerError(Exception):
    """A failed docker command, with its output, or a timeout."""


def own_base() -> str | None:
    """Return the base image that scripts/setup-docker made; None if the pinned one is used."""
    return OWN_BASE.read_text().strip() if OWN_BASE.exists() else None


def base_image() -> str:
    """Return the image on which all images are built."""
    pinned = re.search(r"^ARG DSTACK_VPN_BASE=(\S+)$", DOCKERFILE.read_text(), re.MULTILINE)
    assert pinned is not None
    return own_base() or pinned[1]


def _with_base() -> list[str]:
    own = own_base()
    return [] if own is None else [f"DSTACK_VPN_BASE={own}"]


def docker(*arguments: str, check: bool = True, timeout: float = 600, stdin: str | None = None) -> str:
    """Run docker; return its standard output, and without ``check`` also its standard error.

    Raises `DockerError` with ``check``, if the command fails.
    """
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


def wait_for(
    description: str, look: Callable[[], _T | None], timeout: float = 60.0, pause: float = 0.1
) -> _T:
    """Return the first true result of ``look``; raises `DockerError` after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > deadline:
            raise DockerError(f"not within {timeout:g} s: {description}")
        time.sleep(pause)


def logs(container: str) -> list[str]:
    """Return a container's log lines, of both streams."""
    return docker("logs", container, check=False).splitlines()


def documents(container: str) -> Iterator[dict[str, Any]]:
    """Yield the log lines of a container that are JSON."""
    for line in logs(container):
        if line.startswith("{"):
            yield json.loads(line)


def inspect(container: str) -> dict[str, Any]:
    """Return docker's description of a container or image."""
    (found,) = json.loads(docker("inspect", container))
    return dict(found)


def health(container: str) -> str:
    """Return a container's health, such as ``healthy``, or its state without a health check."""
    state = inspect(container)["State"]
    return str(state.get("Health", {}).get("Status", state["Status"]))


def wait_healthy(*containers: str, timeout: float = 90.0) -> None:
    """Wait until all are healthy; raises `DockerError` with the logs of the first that is not."""
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
    """The variables that the files interpolate."""

    def compose(self, *arguments: str, check: bool = True, timeout: float = 600) -> str:
        """Run docker compose for this project; see `docker`."""
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
        """Return the id of a service's container, whether or not it runs."""
        return self.compose("ps", "-aq", service).strip().splitlines()[0]

    def containers(self, *services: str) -> list[str]:
        """Return the ids of the running containers."""
        return self.compose("ps", "-q", *services).split()

    def exec(self, service: str, *command: str, check: bool = True) -> str:
        """Run a command in a service's container."""
        return docker("exec", self.container(service), *command, check=check)

    def node(self, *arguments: str) -> str:
        """Run dstack-vpn in the dev chain's container, which can sign transactions."""
        return self.exec("devchain", "dstack-vpn", *arguments)

    def status(self, service: str) -> dict[str, Any]:
        """Return a node's ``health`` and ``stats``."""
        return dict(json.loads(self.exec(service, "dstack-vpn", "status", "--json")))

    def down(self) -> None:
        """Remove all containers, networks and volumes."""
        self.compose("--profile", "*", "down", "-v", "-t", "3", "--remove-orphans", check=False)


@contextmanager
def running(stack: Stack, *services: str, build: bool = True) -> Iterator[Stack]:
    """Start a stack, wait until it is healthy, and remove it at the end."""
    try:
        stack.compose("up", "-d", "--wait", *(["--build"] if build else []), *services)
        yield stack
    finally:
        stack.down()


if __name__ == "__main__":
    Stack("dstack-vpn").compose("build", "-q", timeout=3600)
