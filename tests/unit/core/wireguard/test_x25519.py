"""X25519 agrees with the vectors of RFC 7748 and with `wg pubkey`."""

import base64
import os
import shutil
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dstack_vpn.core.wireguard.keys import PrivateKey
from dstack_vpn.core.wireguard.x25519 import clamp, derive


@pytest.mark.parametrize(
    ("private", "public"),
    [  # RFC 7748, sections 5.2 (after one iteration) and 6.1
        (
            "0900000000000000000000000000000000000000000000000000000000000000",
            "422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079",
        ),
        (
            "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb",
            "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f",
        ),
    ],
)
def test_vectors(private: str, public: str) -> None:
    assert derive(PrivateKey(bytes.fromhex(private))).hex() == public


@pytest.mark.skipif(shutil.which("wg") is None, reason="NO wg: install wireguard-tools")
@settings(max_examples=30)
@given(st.binary(min_size=32, max_size=32))
def test_as_wg_does(raw: bytes) -> None:
    key = clamp(raw)
    text = base64.b64encode(key.reveal()).decode()
    wg = subprocess.run(["wg", "pubkey"], input=text, capture_output=True, text=True, check=True)
    assert str(derive(key)) == wg.stdout.strip()
    assert str(derive(PrivateKey(raw))) == wg.stdout.strip()


@pytest.mark.skipif(shutil.which("wg") is None, reason="needs wg")
def test_it_is_what_wg_says() -> None:
    secret = os.urandom(32)
    said = subprocess.run(["wg", "pubkey"], input=base64.b64encode(secret), capture_output=True, check=True)
    assert str(derive(PrivateKey(secret))) == said.stdout.decode().strip()


def test_it_does_not_change() -> None:
    assert str(derive(PrivateKey(bytes(range(32))))) == "j0DFrbaPJWJK5bIU6nZ6bslNgp09e14a0bpvPiE4KF8="
