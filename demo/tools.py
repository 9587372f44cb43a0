"""The check of the demo's requirements, before it changes anything."""

import os
import shutil
from pathlib import Path
from typing import Final

from demo.chain import real_anvil
from demo.lab import Tools
from demo.namespaces import may_unshare
from dstack_vpn.errors import AdminError

_PROGRAMS: Final = {
    "ip": "apt install iproute2",
    "nsenter": "apt install util-linux",
    "unshare": "apt install util-linux",
    "ping": "apt install iputils-ping",
    "wireguard-go": "'make demo' fetches it, or apt install wireguard-go",
    "anvil": "'make demo' fetches it, or npm install -g @foundry-rs/anvil",
}


def find_tools() -> Tools:
    """Return the programs; raises `AdminError` that names all missing ones and the remedy."""
    found = {name: shutil.which(name) for name in _PROGRAMS}
    problems = [f"{name} is not on the PATH: {_PROGRAMS[name]}" for name, path in found.items() if not path]
    problems += _privileges()
    if problems:
        raise AdminError("the demo cannot start:\n" + "\n".join(f"  - {problem}" for problem in problems))
    return Tools(real_anvil(Path(found["anvil"] or "")), Path(found["wireguard-go"] or "").absolute())


def _privileges() -> list[str]:
    if os.geteuid() != 0:
        return ["it creates network namespaces and TUN interfaces, which needs root: sudo make demo"]
    problems = []
    if not Path("/dev/net/tun").exists():
        problems.append("/dev/net/tun is missing: modprobe tun, or give the container that device")
    if shutil.which("unshare") and not may_unshare():
        problems.append("network namespaces are not permitted here: run it outside of this container")
    return problems
