"""The configuration of a plain client, which wg-quick accepts."""

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from tests.scripted import key

from dstack_vpn.core.model import Endpoint
from dstack_vpn.core.wireguard.client_config import ClientConfig

PRIVATE = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHl8="
CONFIG = ClientConfig(
    "phone-1",
    "gw-1",
    ("10.77.0.8/32", "fd01::8/128"),
    key(1),
    Endpoint("2001:db8::1", 51820),
    ("10.77.0.0/16", "fd01::/48"),
    ("10.77.0.2", "vpn.internal"),
)


def test_the_whole_text() -> None:
    assert CONFIG.render(PRIVATE) == (
        "# phone-1, a client of gw-1\n"
        "[Interface]\n"
        f"PrivateKey = {PRIVATE}\n"
        "Address = 10.77.0.8/32, fd01::8/128\n"
        "DNS = 10.77.0.2, vpn.internal\n"
        "\n"
        "[Peer]\n"
        f"PublicKey = {key(1)}\n"
        "Endpoint = [2001:db8::1]:51820\n"
        "AllowedIPs = 10.77.0.0/16, fd01::/48\n"
        "PersistentKeepalive = 25\n"
    )
    assert "DNS" not in replace(CONFIG, dns=()).render(PRIVATE)


@pytest.mark.skipif(shutil.which("wg-quick") is None, reason="needs wg-quick")
def test_wg_quick_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "phone-1.conf"
    path.touch(mode=0o600)
    path.write_text(CONFIG.render(PRIVATE))
    done = subprocess.run(["wg-quick", "strip", path], capture_output=True, text=True, check=True)
    assert "Address" not in done.stdout
    assert f"PublicKey = {key(1)}" in done.stdout
