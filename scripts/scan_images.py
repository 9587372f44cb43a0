"""`make scan`: what is in the images that has no business there, and what Debian has newer.

Ends with 1 for a finding, with 3 where Debian could not be asked, which is not the same as 0.
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
"""What builds, and what fetches: no use at run time but to somebody who broke in."""
_KEY: Final = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----\r?\n[A-Za-z0-9+/=\r\n]{64}")
_UPDATE: Final = re.compile(r"^Inst (\S+) \[(\S+)\] \((\S+)", re.MULTILINE)


def finding(path: str, mode: int, content: bytes | None) -> str | None:
    """What is wrong with a directory, or with a file of that content; None: nothing."""
    if content is not None and mode & _SET_ID:
        return "runs with another's rights"
    if mode & _WRITABLE and not mode & _STICKY:
        return "anybody can write it"
    if content is None:
        return None
    folder, _, name = path.rpartition("/")
    if name in _PROGRAMS and folder.endswith("bin"):
        return "is of no use at run time"
    return "has a private key in it" if _KEY.search(content) else None


def findings(image: str) -> Iterator[str]:
    """Go through all files of an image."""
    with _exported(image) as archive:
        for member in archive:
            if member.isfile() or member.isdir():
                file = archive.extractfile(member) if member.isfile() else None
                content = None if file is None else file.read()
                if what := finding(f"/{member.name}", member.mode, content):
                    yield f"/{member.name} {what}"


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
    """The packages of an image that Debian has in a newer version; None where it can't be asked."""
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
    """Look at all images."""
    code = 0
    for image in IMAGES:
        found, newer = list(findings(image)), updates(image)
        for line in [*found, *(newer or ())]:
            print(f"{image}: {line}")
        if found or newer:
            code = 1
        elif newer is None:
            print(f"{image}: DEBIAN COULD NOT BE ASKED for newer packages")
            code = code or NOT_POSSIBLE
        else:
            print(f"{image}: nothing found; no package that Debian has newer")
    return code


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: {done.stderr.strip()[-500:]}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
