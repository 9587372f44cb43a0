"""The `sh` blocks of the README's quickstart run unchanged, in order, in one shell."""

import json
import re
from pathlib import Path
from typing import Any, Final

import pytest
from demo.lab import Tools
from tests.netns.guides import ROOT, blocks, run_alone

SECTION: Final = (ROOT / "README.md").read_text().partition("\n## Quickstart\n")[2].partition("\n## ")[0]
LOOK: Final = 'dstack-vpn status --json >"$FOUND"'


def script() -> str:
    """Return the section, with a status command before the last block, which stops the daemon."""
    *steps, end = blocks(SECTION)
    text = "\n".join((*steps, LOOK, end))
    if not (ROOT / ".venv" / ".installed-tree").exists():  # do not change another environment, or a wheel
        text = text.replace("scripts/setup demo\n", "")
    return text


def test_the_quickstart_ends_with_a_ready_node_that_has_a_peer(tools: Tools, tmp_path: Path) -> None:
    found = tmp_path / "found.json"
    printed = run_alone(tree_of_links(tmp_path), script(), FOUND=str(found))
    told: dict[str, Any] = json.loads(found.read_text())
    assert told["health"]["ready"], told["health"]
    assert told["stats"]["node_id"] == "web-1"
    assert [peer["node_id"] for peer in told["stats"]["peers"]] == ["web-2"]
    assert "web-2" in printed, "the status"


def tree_of_links(folder: Path) -> Path:
    """Return a folder of links to the clone, so that commands write into the test's folder."""
    tree = folder / "clone"
    tree.mkdir()
    for path in ROOT.iterdir():
        (tree / path.name).symlink_to(path)
    return tree


def test_the_section_has_every_step() -> None:
    text = "\n".join(blocks(SECTION))
    steps = ("scripts/setup", "contract deploy", "keygen", "node register", "vpn run")
    positions = [text.index(step) for step in steps]
    assert positions == sorted(positions)
    assert set(re.findall(r"NETWORK=(\S+)", text)) == {"local"}, "one network all the way"


@pytest.mark.parametrize("block", blocks(SECTION), ids=lambda block: block.split("\n")[0][:30])
def test_every_value_can_be_pasted(block: str) -> None:
    assert "…" not in block and "..." not in block
