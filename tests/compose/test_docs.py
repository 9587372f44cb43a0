"""All `sh` blocks of the guides run unchanged, in a copy of the tree."""

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from scripts.stack import ROOT, Stack, docker, own_base

BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
GUIDES = ("deployment.md", "troubleshooting.md")
NAMES = ("web-1", "relay")
ACCOUNT = ROOT / "docker" / "devchain" / "account0.key"


@pytest.fixture(scope="module")
def chain() -> Iterator[str]:
    """The URL of a dev chain with the registry, reachable from all networks of the engine."""
    name = f"dvpn-docs-{os.getpid()}-chain"
    docker("network", "create", name)  # its gateway is an address of the host only
    bridge = docker("network", "inspect", name, "-f", "{{(index .IPAM.Config 0).Gateway}}").strip()
    with socket.create_server((bridge, 0)) as free:
        port = free.getsockname()[1]
    serve = ("anvil", "--silent", "--host", bridge, "--port", str(port))
    try:
        docker("run", "-d", "--name", name, "--network", "host", "dstack-vpn/devchain:local", *serve)
        docker("exec", "-e", f"RPC_URL=http://{bridge}:{port}", name, "dstack-vpn", "dev", "deploy")
        yield f"ws://{bridge}:{port}"
    finally:
        docker("rm", "-f", "-v", name, check=False)
        docker("network", "rm", name, check=False)


def on_the_chain(text: str, url: str) -> str:
    """Return a guide with the test's chain instead of Base."""
    assert text.count("\nNETWORK=base\n") <= 1
    return text.replace("\nNETWORK=base\n", f"\nNETWORK=local\nRPC_URL={url}\n")


def copy_of_the_tree(folder: Path) -> Path:
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


def on_our_base() -> str:
    """Return a prologue with which builds use the base image of scripts/setup-docker, if any."""
    base = own_base()
    if base is None:
        return ""
    build = 'shift; command docker build --build-arg DSTACK_VPN_BASE "$@"'
    function = f'docker() {{ if [ "$1" = build ]; then {build}; else command docker "$@"; fi; }}'
    return f"export DSTACK_VPN_BASE={base}\n{function}\n"


@pytest.mark.timeout(500)
@pytest.mark.parametrize("guide", GUIDES)
def test_every_command_works(guide: str, chain: str, tmp_path: Path) -> None:
    project = f"dvpn-docs-{os.getpid()}"
    tree = copy_of_the_tree(tmp_path)
    environment = {**os.environ, "COMPOSE_PROJECT_NAME": project}  # noqa: TID251 - for the commands
    text = on_the_chain((ROOT / "docs" / guide).read_text(), chain)
    text = text.replace("-p production", f"-p {project}-production")
    for name in NAMES:
        text = re.sub(rf"(?<=[ =]){name}(-state)?(?=[ \n:])", rf"{project}-run-{name}\1", text)
    blocks = BLOCK.findall(text)
    assert len(blocks) >= 5
    if guide != "deployment.md":
        blocks.insert(0, "docker compose up -d --no-build --wait")
    try:
        for block in blocks:
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", on_our_base() + block],
                cwd=tree,
                env=environment,
                input=ACCOUNT.read_text() if ">owner.key" in block else "",
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, f"{block}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    finally:
        Stack(project).down()
        Stack(f"{project}-production").down()
        for name in NAMES:
            docker("rm", "-f", "-v", f"{project}-run-{name}", check=False)
            docker("volume", "rm", "-f", f"{project}-run-{name}-state", check=False)
