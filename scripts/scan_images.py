"""Search the images for unsafe or unneeded files and for outdated Debian packages (`make scan`).

The exit code is 1 for a finding, and 3 if Debian's package lists cannot be fetched.
"""

import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

IMAGES: Final = ("dstack-vpn/wireguard:local", "dstack-vpn/mullvad-proxy:local")
NOT_POSSIBLE: Final = 3
_SET_ID: Final = 0o6000
_WRITABLE: Final = 0o0002
_STICKY: Final = 0o1000
_PROGRAMS: Final = frozenset(
    {
        "cc",
        "gcc",
        "g++",
        "ld",
        "make",
        "pip",
        "pip3",
        "npm",
        "node",
        "go",
        "cargo",
        "curl",
        "wget",
        "ssh",
        "nc",
    }
)
"""Programs that build or download. Only an intruder would use them at run time."""
_KEY: Final = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----\r?\n[A-Za-z0-9+/=\r\n]{64}")
_UPDATE: Final = re.compile(r"^Inst (\S+) \[(\S+)\] \((\S+)", re.MULTILINE)


def finding(path: str, mode: int, content: bytes | None) -> str | None:
    """Return the problem with a file of that content, or with a directory (content None)."""
    if content is not None and mode & _SET_ID:
        return "is set-user-ID or set-group-ID"
    if mode & _WRITABLE and not mode & _STICKY:
        return "is writable by every user"
    if content is None:
        return None
    folder, _, name = path.rpartition("/")
    if name in _PROGRAMS and folder.endswith("bin"):
        return "is not needed at run time"
    return "contains a private key" if _KEY.search(content) else None


def findings(image: str) -> Iterator[str]:
    """Yield a line for each problem with a file or directory of an image."""
    with _exported(image) as archive:
        for member in archive:
            if member.isfile() or member.isdir():
                file = archive.extractfile(member) if member.isfile() else None
                content = None if file is None else file.read()
                if problem := finding(f"/{member.name}", member.mode, content):
                    yield f"/{member.name} {problem}"


@contextmanager
def _exported(image: str) -> Iterator[tarfile.TarFile]:
    container = _run("docker", "create", image).strip()
    try:
        with (
            subprocess.Popen(["docker", "export", container], stdout=subprocess.PIPE) as export,
            tarfile.open(fileobj=export.stdout, mode="r|") as archive,
        ):
            yield archive
    finally:
        _run("docker", "rm", container)


def updates(image: str) -> list[str] | None:
    """Return an image's outdated packages; None if Debian's lists cannot be fetched."""
    script = "apt-get -qq -o APT::Sandbox::User=root update && apt-get -qq -s upgrade"
    command = ("docker", "run", "--rm", "--user=0", "--tmpfs=/var/lib/apt/lists", "--entrypoint=sh")
    done = subprocess.run(
        [*command, image, "-c", script], capture_output=True, text=True, check=False, timeout=300
    )
    if done.returncode or done.stderr.strip():
        sys.stderr.write(f"{image}: {done.stderr.strip()[-500:]}\n")
        return None
    return [f"{name} {old}: Debian has {new}" for name, old, new in _UPDATE.findall(done.stdout)]


def main() -> int:
    """Scan all images; return the exit code."""
    code = 0
    for image in IMAGES:
        found, newer = list(findings(image)), updates(image)
        for line in [*found, *(newer or ())]:
            print(f"{image}: {line}")
        if found or newer:
            code = 1
        elif newer is None:
            print(f"{image}: NOT CHECKED for newer packages: Debian's lists cannot be fetched")
            code = code or NOT_POSSIBLE
        else:
            print(f"{image}: no findings; all packages are current")
    return code


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: {done.stderr.strip()[-500:]}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
