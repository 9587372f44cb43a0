"""The `sh` blocks of docs/clients.md run unchanged, in order, in one shell, on a dev chain."""

import json
import re
from pathlib import Path
from typing import Final

import pytest
from demo.lab import Tools
from tests.netns.clients import setting
from tests.netns.guides import OWNER, ROOT, blocks, run_alone

import dstack_vpn
from dstack_vpn.core.wireguard.keys import PrivateKey
from dstack_vpn.core.wireguard.x25519 import derive

GUIDE: Final = ROOT / "docs" / "clients.md"
BEGINNING: Final = """
export CONTRACT_PRIVATE_KEY_FILE=/etc/dstack-vpn/owner.key
dstack-vpn node register gw-1 --to 0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266 \\
    --public-key "$(dstack-vpn keygen | dstack-vpn pubkey)" --endpoint 192.0.2.1:51820
"""
END: Final = """
dstack-vpn client list --json >clients.json
dstack-vpn node list --json >nodes.json
kill %1
"""
REASON: Final = re.compile(r"^\| `([^`]*)` \|", re.MULTILINE)


@pytest.fixture(scope="module")
def ran(tools: Tools, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run the guide, and return the folder in which it ran."""
    folder = tmp_path_factory.mktemp("guide")
    source = str(Path(dstack_vpn.__file__).parents[1])
    run_alone(folder, OWNER, BEGINNING, *blocks(GUIDE.read_text()), END, PYTHONPATH=source)
    return folder


def test_the_clients_are_registered_with_the_keys_of_their_configurations(ran: Path) -> None:
    nodes = {node["node_id"]: node for node in json.loads((ran / "nodes.json").read_text())["nodes"]}
    for name in ("phone-1", "phone-2", "laptop-1"):
        config = (ran / f"{name}.conf").read_text()
        private_key = PrivateKey.parse(setting(config, "PrivateKey"))
        assert str(derive(private_key)) == nodes[name]["public_key"]
        assert setting(config, "PublicKey") == nodes["gw-1"]["public_key"]
        assert "via:gw-1" in (nodes[name]["endpoint"], nodes[name]["uri_endpoint"])


def test_the_revoked_client_is_shown_as_revoked(ran: Path) -> None:
    clients = {each["node_id"]: each for each in json.loads((ran / "clients.json").read_text())["clients"]}
    assert clients["phone-1"]["reason"] == "revoked"
    assert clients["laptop-1"]["reason"] == "active (a client of gw-1)"


def test_each_reason_of_the_guide_is_in_the_sources() -> None:
    source = (ROOT / "src" / "dstack_vpn" / "core" / "access" / "control.py").read_text()
    source = source.replace("{GATEWAY}", "gateway")
    reasons = REASON.findall(GUIDE.read_text())
    assert len(reasons) == 4
    for reason in reasons:
        assert reason.removesuffix(" …") in source
