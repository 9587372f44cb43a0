"""Guides whose `sh` blocks run unchanged, in order, in one shell, in namespaces of their own."""

import os
import re
import subprocess
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
HIDDEN: Final = """
mount -t tmpfs tmpfs /run && mount -t tmpfs tmpfs /var/lib && mkdir /run/upper /run/work /run/wireguard
mount -t overlay overlay -o lowerdir=/etc,upperdir=/run/upper,workdir=/run/work /etc
ip link set lo up
"""
"""Keep writes to the machine's folders in the test's mount namespace."""
OWNER: Final = f"""
export NETWORK=local
install -d -m 0700 /etc/dstack-vpn
install -m 0600 {ROOT}/docker/devchain/account0.key /etc/dstack-vpn/owner.key
anvil --silent &
until dstack-vpn dev status 2>/dev/null; do sleep 0.2; done
CONTRACT_PRIVATE_KEY_FILE=/etc/dstack-vpn/owner.key dstack-vpn contract deploy
"""
"""A dev chain with a registry, and the key of its owner."""


def blocks(text: str) -> list[str]:
    """Return the commands of a guide, or of a section of it."""
    return re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def run_alone(folder: Path, *parts: str, **environment: str) -> str:
    """Run the parts of a script in a folder, and return their output."""
    alone = ("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
    kept = {name: os.environ[name] for name in ("HOME", "PATH")}  # noqa: TID251 - for the commands
    done = subprocess.run(
        [*alone, "bash", "-euo", "pipefail", "-c", "\n".join((HIDDEN, f"cd {folder}", *parts))],
        env=kept | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout
