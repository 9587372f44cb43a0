"""Network namespaces for the demo, the tests and the benchmarks.

Each namespace also has its own ``/run/wireguard`` (a mount namespace with a tmpfs): wireguard-go's
control sockets are paths, and two namespaces with a ``wg0`` would share one.

No namespace has a default route, and the veth pairs connect only namespaces: nothing in them
reaches the machine's own network. The default name is ``dv`` and this process's number, so parallel
runs do not collide.

Needs root and the usual programs: ip (iproute2), unshare, nsenter and mount (util-linux).
"""

import contextlib
import ctypes
import itertools
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Self

from dstack_vpn.errors import AdminError

MOUNTS: Final = Path("/run/dstack-vpn-netns")
"""The directory of the mount namespaces: a private mount, which the kernel requires."""
NAMED: Final = Path("/run/netns")
"""The directory of ip(8) for network namespaces."""
_CLONE_FS: Final = 0x0000_0200
_CLONE_NEWNS: Final = 0x0002_0000
_CLONE_NEWNET: Final = 0x4000_0000
_KINDS: Final = (("net", _CLONE_NEWNET), ("mnt", _CLONE_NEWNS))
_libc: Final = ctypes.CDLL(None, use_errno=True)
_numbers: Final = itertools.count()


def run(*command: str | Path, check: bool = True, text: str | None = None) -> str:
    """Run a program and return its output; raises `AdminError` with its error output."""
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=60)
    if check and done.returncode:
        raise AdminError(f"{' '.join(map(str, command))}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def _on_some_processor(*command: str) -> None:
    """Run a program, on each processor in turn until it succeeds; raises `AdminError` if it never
    does.

    A mount namespace can be kept as a file only within an older one. Linux 6.18 numbers them in
    batches per processor, so inside a new namespace, as in a container, success depends on the
    processor.
    """
    allowed = os.sched_getaffinity(0)
    *others, last = sorted(allowed)
    try:
        for processor in others:
            # The calling thread's affinity, which the program inherits.
            os.sched_setaffinity(0, {processor})
            with contextlib.suppress(AdminError):
                run(*command)
                return
        os.sched_setaffinity(0, {last})
        run(*command)
    finally:
        os.sched_setaffinity(0, allowed)


class Namespace:
    """A network namespace with a mount namespace beside it; use it as a context manager."""

    def __init__(self, label: str = "n", *, name: str | None = None) -> None:
        self.name = name or f"dv{os.getpid()}{label}{next(_numbers)}"
        self._processes: list[subprocess.Popen[str]] = []
        self._held = contextlib.ExitStack()
        self._descriptors: tuple[int, ...] = ()

    def __enter__(self) -> Self:
        _prepare_mounts()
        try:
            run("ip", "netns", "add", self.name)
            self.mounts.touch()
            unshared = ("unshare", f"--mount={self.mounts}", "--propagation", "private")
            # An empty directory over the caller's control sockets, in this namespace only.
            script = "mkdir -p /run/wireguard && mount -t tmpfs -o mode=0755 tmpfs /run/wireguard"
            _on_some_processor(*unshared, "sh", "-c", script)
            # A mount namespace's file is not visible from inside it, so the path is useless there.
            self._descriptors = (_opened(self._held, NAMED / self.name), _opened(self._held, self.mounts))
            self.run("ip", "link", "set", "lo", "up")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def mounts(self) -> Path:
        """Return the path of its mount namespace."""
        return MOUNTS / self.name

    # -- inside ------------------------------------------------------------------------------------

    def command(self, *command: str | Path) -> list[str]:
        """Return the command line that runs a command inside; signals reach the command itself."""
        net, mounts = (f"/proc/{os.getpid()}/fd/{descriptor}" for descriptor in self._descriptors)
        return ["nsenter", f"--net={net}", f"--mount={mounts}", "--", *map(str, command)]

    def shell_command(self, *command: str | Path) -> str:
        """Return the shell command that runs a command inside, also after this process exits."""
        return " ".join(
            ["nsenter", f"--net={NAMED / self.name}", f"--mount={self.mounts}", *map(str, command)]
        )

    def run(self, *command: str | Path, check: bool = True, text: str | None = None) -> str:
        """Run a program inside, and return its output."""
        return run(*self.command(*command), check=check, text=text)

    def popen(self, *command: str | Path, **options: Any) -> "subprocess.Popen[str]":  # noqa: ANN401 - Popen's
        """Start a program inside; it is killed at the end if it still runs."""
        process: subprocess.Popen[str] = subprocess.Popen(self.command(*command), text=True, **options)
        self._processes.append(process)
        return process

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Move the calling thread inside, for code that opens sockets and interfaces itself."""
        here = Path.cwd()
        try:
            with self._inside(_KINDS):
                yield
        finally:
            # Entering a mount namespace changes the working directory to the root.
            os.chdir(here)

    def socket(self) -> socket.socket:
        """Return a TCP socket that belongs to the namespace; any process may use it."""
        with self._inside(_KINDS[:1]):
            return socket.socket(socket.AF_INET, socket.SOCK_STREAM)

    @contextlib.contextmanager
    def _inside(self, kinds: Sequence[tuple[str, int]]) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            back = [(_opened(stack, f"/proc/thread-self/ns/{kind}"), flag) for kind, flag in kinds]
            _move([(fd, flag) for fd, (_, flag) in zip(self._descriptors, kinds, strict=False)])
            try:
                yield
            finally:
                _move(back)

    def pids(self) -> list[int]:
        """Return the processes inside."""
        return [int(pid) for pid in run("ip", "netns", "pids", self.name, check=False).split()]

    def pid_of(self, program: str) -> int | None:
        """Return the process id of a program inside, by its name."""
        for pid in self.pids():
            # The program that listed them was inside too, and has exited.
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/comm").read_text().strip() == program:
                    return pid
        return None

    # -- the end -----------------------------------------------------------------------------------

    def let_go(self) -> None:
        """Keep it and its processes after this process exits, for `remove`."""
        self._held.close()
        self._processes.clear()

    def close(self) -> None:
        """Kill the processes inside, and remove the namespace; may be called twice."""
        self._held.close()
        remove(self.name)
        self.reap()

    def reap(self) -> None:
        """Reap the processes that ran inside."""
        self._held.close()
        for process in self._processes:
            process.wait(10)
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    stream.close()
        self._processes.clear()


def connect(
    left: Namespace, right: Namespace, *addresses: tuple[str, str], names: tuple[str, str] | None = None
) -> tuple[str, str]:
    """Create a veth pair between two namespaces, and return its ends' names.

    ``addresses`` has pairs for the two ends, such as ``("10.9.0.1/24", "10.9.0.2/24")``; an empty
    one is skipped.
    """
    number = next(_numbers)
    names = names or (f"ve{number}l", f"ve{number}r")
    # By `ip -n`, outside of the mount namespaces: these do not see newer namespaces.
    run("ip", "-n", left.name, "link", "add", names[0], "type", "veth", "peer", names[1], "netns", right.name)
    for namespace, name, side in ((left, names[0], 0), (right, names[1], 1)):
        for pair in addresses:
            if pair[side]:
                nodad = ("nodad",) if ":" in pair[side] else ()
                namespace.run("ip", "address", "add", pair[side], "dev", name, *nodad)
        namespace.run("ip", "link", "set", name, "up")
    return names


def wait_until(condition: Callable[[], object], what: str, timeout: float = 10.0) -> None:
    """Wait until a condition holds; raises `AdminError` after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() >= deadline:
            raise AdminError(f"not within {timeout:g} s: {what}")
        time.sleep(0.003)


def remove(name: str) -> None:
    """Kill all processes in a namespace and remove it; a missing namespace is not an error."""
    for _ in range(100):
        inside = run("ip", "netns", "pids", name, check=False).split()
        if not inside:
            break
        _kill(map(int, inside))
        time.sleep(0.01)
    run("ip", "netns", "del", name, check=False)
    run("umount", "--lazy", MOUNTS / name, check=False)
    (MOUNTS / name).unlink(missing_ok=True)


def may_unshare() -> bool:
    """Return True if this process may create namespaces."""
    tried = subprocess.run(["unshare", "--net", "--mount", "true"], capture_output=True, check=False)
    return tried.returncode == 0


# -- how -------------------------------------------------------------------------------------------


def _prepare_mounts() -> None:
    MOUNTS.mkdir(exist_ok=True)
    if subprocess.run(["mountpoint", "-q", MOUNTS], check=False).returncode:
        run("mount", "--bind", MOUNTS, MOUNTS)
        run("mount", "--make-private", MOUNTS)


def _kill(pids: Iterable[int]) -> None:
    for pid in pids:
        if pid != os.getpid():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _move(namespaces: Sequence[tuple[int, int]]) -> None:
    if any(flag == _CLONE_NEWNS for _, flag in namespaces):
        # A thread that shares its root and working directory cannot enter a mount namespace.
        _call(_libc.unshare, _CLONE_FS)
    for descriptor, flag in namespaces:
        _call(_libc.setns, descriptor, flag)


def _opened(stack: contextlib.ExitStack, path: str | Path) -> int:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    stack.callback(os.close, descriptor)
    return descriptor


def _call(function: Callable[..., int], *arguments: int) -> None:
    if function(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
