"""Network namespaces for tests: those of the demo, and helpers of the tests.

The tests of wireguard-go's link and the daemon's end-to-end tests run in these namespaces. The demo
and the benchmarks use the same code.
"""

import os
import re
import shutil
from pathlib import Path
from typing import Final

from demo.namespaces import (
    MOUNTS,
    NAMED,
    Namespace,
    connect,
    may_unshare,
    remove,
    run,
    wait_until,
)

from dstack_vpn.core.ownership import Claim, Identity
from dstack_vpn.core.wireguard.keys import PublicKey

_OURS: Final = re.compile(r"dv([0-9]+)[a-z].*", re.ASCII)


def remove_leftovers() -> list[str]:
    """Remove the namespaces of runs whose process is dead, and return their names."""
    found = sorted({path.name for folder in (NAMED, MOUNTS) for path in folder.glob("dv*")})
    dead = [
        name for name in found if (ours := _OURS.fullmatch(name)) and not Path(f"/proc/{ours[1]}").exists()
    ]
    for name in dead:
        remove(name)
    return dead


def is_usable() -> bool:
    """Return whether this process may create namespaces and TUN interfaces."""
    return os.geteuid() == 0 and Path("/dev/net/tun").exists() and may_unshare()


def wireguard_go() -> str | None:
    """Return the path of an installed wireguard-go, or of the one in .cache/bin; else None."""
    fetched = Path(__file__).parents[1] / ".cache" / "bin" / "wireguard-go"
    return shutil.which("wireguard-go") or (str(fetched) if fetched.exists() else None)


def claim(name: str = "wg0", instance: str = "tests", *keys: PublicKey) -> Claim:
    """Return the claim of a test's link: the interface, and the identity that proves ownership."""
    return Claim(name, ("10.77.0.0/16", "fd77::/48"), Identity(instance, frozenset(keys)))


__all__ = [
    "MOUNTS",
    "Namespace",
    "claim",
    "connect",
    "is_usable",
    "remove_leftovers",
    "run",
    "wait_until",
    "wireguard_go",
]
