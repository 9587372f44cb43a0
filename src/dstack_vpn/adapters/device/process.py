"""The start of wireguard-go, such that the tunnel survives the end of either process.

- The daemon creates the TUN interface and passes its descriptor on (``WG_TUN_FD``). While the
  daemon holds its descriptor, the interface survives the end of wireguard-go unchanged. The
  interface is also persistent (TUNSETPERSIST). It therefore also survives if the daemon only
  adopted wireguard-go and has no descriptor: addresses and routes stay, and the next wireguard-go
  is attached to the same interface. In return, the interface has to be deleted explicitly, which
  `UserspaceLink.stop` does.
- The daemon binds the control socket and passes it on (``WG_UAPI_FD``). A connection never has to
  wait for the path to appear. Requests queue until wireguard-go is ready, and the kernel resets
  them if it dies before that.
- wireguard-go runs in a separate session, with only these two descriptors of the daemon. It
  outlives the daemon, and the next daemon adopts it without packet loss.
- The private key is passed through the socket only: no argument, no environment variable, no file.

The ioctl numbers are those of linux/if_tun.h on x86, ARM and RISC-V.
"""

import asyncio
import errno
import fcntl
import os
import re
import shutil
import signal
import socket
import stat
import struct
from contextlib import suppress
from pathlib import Path
from typing import Final

from dstack_vpn.adapters import subprocesses
from dstack_vpn.errors import DeviceError

SOCKETS: Final = Path("/var/run/wireguard")
"""Control sockets of wireguard-go and `wg`. wireguard-go exits when its own is removed."""
TUN: Final = "/dev/net/tun"
_UNIX_SOCKETS: Final = Path("/proc/thread-self/net/unix")
"""The Unix sockets of the thread's network namespace, with their paths."""

_TUNSETIFF: Final = 0x400454CA
_TUNSETPERSIST: Final = 0x400454CB
_TUNGETIFF: Final = 0x800454D2
_IFF_TUN: Final = 0x0001
_IFF_NO_PI: Final = 0x1000
_IFF_VNET_HDR: Final = 0x4000
_IFF_TUN_EXCL: Final = 0x8000
_IFREQ: Final = struct.Struct("16sH22x")

_VERSION_DEADLINE: Final = 5.0
"""Seconds for wireguard-go to print its version."""
_NAME: Final = re.compile(r"[A-Za-z0-9_=+.-]{1,15}", re.ASCII)
"""The interface names that wg-quick accepts. They are safe in paths and shell commands."""

_TUN_PROBLEMS: Final = {
    errno.ENOENT: f"{TUN} is missing: load the tun module, or pass the device to the container",
    errno.ENODEV: f"{TUN} has no driver: load the tun module (modprobe tun)",
    errno.EPERM: "no permission to create a TUN interface: CAP_NET_ADMIN is needed",
    errno.EACCES: f"no permission to open {TUN}: allow the device for the container",
    errno.EBUSY: "another program uses the interface: stop it, or choose another INTERFACE",
    errno.EINVAL: "an interface of another kind has that name: remove it, or choose another INTERFACE",
}
_LISTENS: Final = "00010000"
"""The flags of a listening socket in that table (linux/net.h: __SO_ACCEPTCON)."""


def check_name(name: str) -> str:
    """Return the interface name. Raises `DeviceError` if it is invalid."""
    if not _NAME.fullmatch(name) or name in {".", ".."}:
        raise DeviceError(f"not an interface name: {name[:32]!r} (1 to 15 letters, digits or _=+.-)")
    return name


def socket_path(name: str) -> Path:
    """Return the path of the control socket of an interface's wireguard-go."""
    return SOCKETS / f"{check_name(name)}.sock"


def find_program(program: str) -> Path:
    """Return the path of wireguard-go. Raises `DeviceError` if it is missing."""
    path = shutil.which(program)
    if path is None:
        raise DeviceError(f"{program} is not installed: apt install wireguard-go")
    return Path(path)


def has_offloads(program: Path) -> bool:
    """Return True if this wireguard-go expects packets after a virtio header.

    That is several times faster. Otherwise it expects them after the older packet information, and
    would misread a virtio header. The version does not show the difference: Debian's 0.0.20231211
    reports 0.0.20230223, which had no offloads. The name of the header type does, because every
    binary with support for it contains that name.
    """
    return b"virtioNetHdr" in program.read_bytes()


async def program_version(program: Path) -> str | None:
    """Return wireguard-go's version, such as ``0.0.20230223``. None if it prints none.

    Raises `DeviceError` if it can't be started or does not end.
    """
    try:
        ran = await subprocesses.run(program, "--version", deadline=_VERSION_DEADLINE)
    except TimeoutError:
        raise DeviceError(f"{program} --version did not finish within {_VERSION_DEADLINE:g} s") from None
    except OSError as error:
        raise DeviceError(f"can't start {program}: {error.strerror}") from error
    found = re.search(rb"wireguard-go v?([0-9]+(?:\.[0-9]+)*)", ran.output)
    return found[1].decode("ascii") if found else None


def is_outdated(version: str | None) -> bool:
    """Return True for a version whose control socket stalls for a minute (up to 0.0.20220316)."""
    numbers = tuple(int(part) for part in (version or "").split(".") if part)
    return bool(numbers) and numbers < (0, 0, 20230223)


def open_tun(name: str, *, offloads: bool, new: bool) -> int:
    """Create the TUN interface (``new``), or attach to one that survived its program.

    Before `persist` is called, closing the descriptor removes the interface. Raises `DeviceError`,
    also if ``new`` is set and the interface exists.
    """
    flags = _IFF_TUN | (_IFF_NO_PI | _IFF_VNET_HDR if offloads else 0) | (_IFF_TUN_EXCL if new else 0)
    descriptor = -1
    try:
        descriptor = os.open(TUN, os.O_RDWR | os.O_CLOEXEC)
        fcntl.ioctl(descriptor, _TUNSETIFF, _IFREQ.pack(check_name(name).encode("ascii"), flags))
    except OSError as error:
        if descriptor >= 0:
            os.close(descriptor)
        problem = _TUN_PROBLEMS.get(error.errno or 0) or os.strerror(error.errno or 0)
        raise DeviceError(f"can't create {name}: {problem}") from error
    return descriptor


def persist(descriptor: int) -> None:
    """Keep the descriptor's interface after its last descriptor is closed. Raises `DeviceError`."""
    try:
        fcntl.ioctl(descriptor, _TUNSETPERSIST, 1)
    except OSError as error:
        raise DeviceError(f"can't keep the TUN interface: {os.strerror(error.errno or 0)}") from error


def is_attached(descriptor: int) -> bool:
    """Return True if the descriptor's interface still exists."""
    try:
        fcntl.ioctl(descriptor, _TUNGETIFF, bytes(_IFREQ.size))
    except OSError:
        return False
    return True


def listens_here(path: Path) -> bool:
    """Return True if a program of our network namespace listens at the control socket's path.

    A socket belongs to the namespace in which it was created, and only that namespace's table lists
    it. The process that called listen (SO_PEERCRED) proves nothing: it is the daemon that started
    wireguard-go, which may have ended.
    """
    try:
        lines = _UNIX_SOCKETS.read_text("utf-8", "replace").splitlines()[1:]
    except OSError:
        return True  # unknown, but its ownership is still proven by the key
    rows = (line.split(maxsplit=7) for line in lines)
    # The table also lists our connection to a listener of another namespace, with its path.
    names = [Path(row[7]) for row in rows if len(row) == 8 and row[3] == _LISTENS]
    return any((name.name, name.parent.name) == (path.name, path.parent.name) for name in names)


def is_listened_at(path: Path) -> bool:
    """Return True if a program listens at the path, in any network namespace. Raises `OSError`."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(str(path))
        except BlockingIOError:
            return True  # its queue is full
        except (ConnectionRefusedError, FileNotFoundError):
            return False
    return True


def is_elsewhere(path: Path) -> bool:
    """Return True if a program of another network namespace listens at the path."""
    try:
        return is_listened_at(path) and not listens_here(path)
    except OSError:
        return False


def socket_id(path: Path) -> tuple[int, int] | None:
    """Return the socket behind the path, as device and inode. None if it is missing."""
    with suppress(OSError):
        found = path.lstat()
        if stat.S_ISSOCK(found.st_mode):
            return found.st_dev, found.st_ino
    return None


def bind_socket(path: Path) -> socket.socket:
    """Listen at the control socket's path, for root only. Replace a socket without a listener.

    A lock on the directory keeps concurrent daemons from removing a socket that another one has
    just bound. Raises `DeviceError`, also if a program listens there or the path is not a socket.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(directory, fcntl.LOCK_EX)
            _clear_path(path)
            # Set the mode before the socket has a path, so that others can never connect.
            os.fchmod(listener.fileno(), 0o600)
            listener.bind(str(path))
            listener.listen()
        finally:
            os.close(directory)
    except OSError as error:
        listener.close()
        raise DeviceError(f"can't listen at {path}: {os.strerror(error.errno or 0)}") from error
    except DeviceError:
        listener.close()
        raise
    return listener


def _clear_path(path: Path) -> None:
    if is_listened_at(path):
        raise DeviceError(
            f"another WireGuard listens at {path}: give this network namespace a separate {path.parent}, "
            "or choose another INTERFACE"
        )
    if socket_id(path) is not None:
        path.unlink()


class Child:
    """A started wireguard-go. It is reaped when it ends, if the event loop runs."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.dead = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._pidfd = os.pidfd_open(pid)
        self._loop.add_reader(self._pidfd, self._reap)

    def _reap(self) -> None:
        os.waitpid(self.pid, os.WNOHANG)
        self.dead.set()
        self.release()

    def release(self) -> None:
        """Stop the supervision. wireguard-go continues to run."""
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1

    def terminate(self) -> None:
        """Send it SIGTERM, if it runs."""
        if self._pidfd >= 0:
            signal.pidfd_send_signal(self._pidfd, signal.SIGTERM)


def spawn(program: Path, name: str, tun: int, listener: socket.socket) -> Child:
    """Start wireguard-go on the TUN descriptor and the listening socket. Raises `DeviceError`.

    The caller then closes its own ``listener``, so that the kernel resets waiting clients if the
    program dies.
    """
    # Numbers above those in the child, so that neither duplicate overwrites the other.
    sources = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 5) for fd in (tun, listener.fileno())]
    environment = {
        "WG_TUN_FD": "3",
        "WG_UAPI_FD": "4",
        "WG_PROCESS_FOREGROUND": "1",
        "LOG_LEVEL": "error",
    }
    actions = [(os.POSIX_SPAWN_OPEN, fd, "/dev/null", os.O_RDWR, 0) for fd in (0, 1, 2)]
    targets = [(os.POSIX_SPAWN_DUP2, source, fd) for source, fd in zip(sources, (3, 4), strict=True)]
    try:
        pid = os.posix_spawn(
            program,
            [str(program), "-f", name],
            environment,
            file_actions=[*actions, *targets],
            setsid=True,
        )
    except OSError as error:
        raise DeviceError(f"can't start {program}: {os.strerror(error.errno or 0)}") from error
    finally:
        for source in sources:
            os.close(source)
    return Child(pid)
