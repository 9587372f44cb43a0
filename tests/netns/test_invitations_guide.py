"""The `sh` blocks of docs/invitations.md run unchanged, in order, in one shell, on a dev chain."""

import json
import re
from pathlib import Path
from typing import Any, Final

import pytest
from demo.lab import Tools
from tests.netns.guides import OWNER, ROOT, blocks, run_alone

from dstack_vpn.core.chain.invitation_facts import Use

GUIDE: Final = ROOT / "docs" / "invitations.md"
ACCOUNT: Final = "59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d"
"""The key of anvil's second account, which is public."""
BEGINNING: Final = f"""
(umask 077; echo {ACCOUNT} >/etc/dstack-vpn/account.key)
"""
END: Final = """
dstack-vpn node list --json >nodes.json
dstack-vpn pubkey </var/lib/dstack-vpn/wireguard.key >key
cp /etc/dstack-vpn/config.toml config.toml
RPC_URL=http://127.0.0.1:8545 dstack-vpn invite show --json - <web-4.code >cancelled.json
kill %1
"""
MESSAGE: Final = re.compile(r"^\| (`.*`) \|", re.MULTILINE)


@pytest.fixture(scope="module")
def ran(tools: Tools, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run the guide, and return the folder in which it ran."""
    folder = tmp_path_factory.mktemp("guide")
    run_alone(folder, OWNER, BEGINNING, *blocks(GUIDE.read_text()), END)
    return folder


def test_the_invited_machine_is_a_node_with_its_own_key(ran: Path) -> None:
    (node,) = json.loads((ran / "nodes.json").read_text())["nodes"]
    assert (node["node_id"], node["public_key"]) == ("web-3", (ran / "key").read_text().strip())
    assert "192.0.2.30:51820" in json.dumps(node)
    assert 'node_id = "web-3"' in (ran / "config.toml").read_text()


def test_the_cancelled_invitation_is_shown_as_cancelled(ran: Path) -> None:
    shown: dict[str, Any] = json.loads((ran / "cancelled.json").read_text())
    assert "was cancelled" in shown["status"]


def test_each_message_of_the_guide_is_in_the_sources() -> None:
    sources = "\n".join(
        path.read_text() for path in (ROOT / "src" / "dstack_vpn").rglob("*.py") if "invit" in path.name
    )
    joined = re.sub(r'"\s*\n\s*f?"', "", sources)
    text = "\n".join(joined.replace("{facts.use.value}", use.value) for use in Use)
    messages = re.findall(r"`([^`]+)`", "\n".join(MESSAGE.findall(GUIDE.read_text())))
    assert len(messages) > 8
    for message in messages:
        for part in filter(None, (part.strip() for part in message.split("…"))):
            assert part in text, message
