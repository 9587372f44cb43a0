import base64
import os
import shutil
import subprocess

import pytest

from dstack_vpn.core.wireguard.keys import PrivateKey
from dstack_vpn.core.wireguard.x25519 import derive


@pytest.mark.skipif(shutil.which("wg") is None, reason="needs wg")
def test_it_is_what_wg_says() -> None:
    secret = os.urandom(32)
    said = subprocess.run(["wg", "pubkey"], input=base64.b64encode(secret), capture_output=True, check=True)
    assert str(derive(PrivateKey(secret))) == said.stdout.decode().strip()


def test_it_does_not_change() -> None:
    assert str(derive(PrivateKey(bytes(range(32))))) == "j0DFrbaPJWJK5bIU6nZ6bslNgp09e14a0bpvPiE4KF8="
