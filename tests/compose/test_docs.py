"""Every `sh` block of the guides is run as it stands, in a copy of the tree."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from scripts.stack import ROOT, Stack, docker

BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
GUIDES = ("deployment.md", "troubleshooting.md")
NAMES = ("web-1", "relay")


def copy_of_the_tree(folder: Path) -> Path:
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


@pytest.mark.timeout(500)
@pytest.mark.parametrize("guide", GUIDES)
def test_every_command_works(guide: str, tmp_path: Path) -> None:
    project = f"dvpn-docs-{os.getpid()}"
    tree = copy_of_the_tree(tmp_path)
    environment = {**os.environ, "COMPOSE_PROJECT_NAME": project}  # noqa: TID251 - for the commands
    text = (ROOT / "docs" / guide).read_text().replace("-p production", f"-p {project}-production")
    for name in NAMES:
        text = re.sub(rf"(?<=[ =]){name}(-state)?(?=[ \n:])", rf"{project}-run-{name}\1", text)
    blocks = BLOCK.findall(text)
    assert len(blocks) >= 5
    if guide != "deployment.md":
        blocks.insert(0, "docker compose up -d --no-build --wait")
    try:
        for block in blocks:
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", block],
                cwd=tree,
                env=environment,
                stdin=subprocess.DEVNULL,
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
