"""The guide "My office network" of docs/networks.md: each block runs unchanged on its machine."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest
from demo.lab import Lab
from demo.node import LabNode
from tests.netns.offices import open_office
from tests.netns_support import wait_until

from dstack_vpn.adapters.contracts import calls

pytestmark = [pytest.mark.netns, pytest.mark.anvil, pytest.mark.timeout(120)]

ROOT: Final = Path(__file__).parents[2]
GUIDE: Final = (ROOT / "docs" / "networks.md").read_text().split("\n## ")[1]
HIDDEN: Final = f"""
mount -t tmpfs tmpfs /mnt && mkdir /mnt/upper /mnt/work
mount -t overlay overlay -o lowerdir=/etc,upperdir=/mnt/upper,workdir=/mnt/work /etc
install -D -m 0600 {ROOT}/docker/devchain/account0.key /etc/dstack-vpn/owner.key
"""
"""The owner's key, in a mount namespace of its own."""
COMMAND: Final = f'dstack-vpn() {{ {sys.executable} -m dstack_vpn "$@"; }}\n'


def run(node: LabNode, text: str, **more: str) -> str:
    """Run a block on the machine of a node, whose settings are in the environment."""
    script = f"{HIDDEN}{COMMAND}{text}"
    done = subprocess.run(
        node.namespace.command("unshare", "--mount", "bash", "-euo", "pipefail", "-c", script),
        env=node.environment() | more,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_guide_connects_a_laptop_with_the_office(empty_lab: Lab) -> None:
    lab = empty_lab
    assert GUIDE.startswith("My office network")
    gateway_block, minter_block, laptop_block, second_block = re.findall(
        r"^```sh\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL
    )
    (setting,) = re.findall(r"`ACCEPT_ROUTES=(\S+)`", GUIDE)
    for name in ("office", "office-2", "laptop"):
        node = lab.add_node(name)
        lab.mint(node)
        lab.set_endpoint(node)
    office, second, laptop = lab.nodes.values()
    for node in (office, second):
        open_office(lab, node, "192.168.7.20", "fd07::20", forward=False)
        node.start()
        run(node, gateway_block)
    laptop.start()
    for node in lab.nodes.values():
        node.wait_ready()
    run(laptop, minter_block)
    assert not laptop.reaches("192.168.7.20", wait=0.2)
    laptop.stop()
    laptop.start(ACCEPT_ROUTES=setting)
    laptop.wait_ready()
    laptop.wait_reaches("192.168.7.20")
    shown = run(laptop, laptop_block, ACCEPT_ROUTES=setting)
    assert re.search(r"^192\.168\.7\.0/24 +office ", shown, re.MULTILINE)
    assert "dev wg0" in shown
    run(laptop, second_block, CONTRACT_PRIVATE_KEY_FILE="/etc/dstack-vpn/owner.key")
    lab.chain.send(calls.revoke(office.token))
    wait_until(lambda: laptop.reaches("192.168.7.20", wait=0.2), "the second gateway takes over")
    assert laptop.get("/stats")["networks"][0]["node_id"] == "office-2"
