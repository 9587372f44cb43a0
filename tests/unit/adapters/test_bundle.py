"""Redaction of secrets in support bundles, in every form."""

import base64
import stat
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstack_vpn.adapters.bundle import Scrubber, write
from dstack_vpn.adapters.redact import HIDDEN
from dstack_vpn.errors import StoreError

KEY = base64.b64encode(bytes(range(7, 39))).decode()
ACCOUNT = "0x" + bytes(range(50, 82)).hex()


@pytest.mark.parametrize(
    "form",
    [
        KEY,
        KEY.rstrip("="),
        bytes(range(7, 39)).hex(),
        bytes(range(7, 39)).hex().upper(),
        base64.urlsafe_b64encode(bytes(range(7, 39))).decode(),
        base64.b64encode(KEY.encode()).decode(),
        ACCOUNT,
        ACCOUNT[2:],
        base64.b64encode(bytes.fromhex(ACCOUNT[2:])).decode(),
        "p%40ss%2Fword",
        "p@ss/word",
    ],
)
def test_a_secret_is_taken_out_in_every_form(form: str) -> None:
    scrubbed = Scrubber([KEY, ACCOUNT, "p@ss/word"]).scrub(f"before {form} after")
    assert form not in scrubbed
    assert scrubbed.startswith(f"before {HIDDEN}")


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("[Interface]\nPrivateKey = c29tZWJvZHkgZWxzZSdzIHByaXZhdGUga2V5ISEhISE=\n", "c29tZWJvZHk"),
        ("private_key=00aabbccddeeff\n", "00aabbcc"),
        ("wss://user:hunter2@rpc.example.org/v3", "hunter2"),
        ("Authorization: Bearer abc.def-ghi", "abc.def"),
        ('{"token": "sesame", "node": "a"}', "sesame"),
        ("CONTRACT_PRIVATE_KEY=0x1234\n", "0x1234"),
        ("export API_TOKEN=sesame\n", "sesame"),
    ],
)
def test_what_stands_where_a_secret_would_is_taken_out(text: str, secret: str) -> None:
    assert secret not in Scrubber([]).scrub(text)


def test_what_is_no_secret_stays() -> None:
    text = f'{{"public_key": "{KEY}", "token": 7, "endpoint": "192.0.2.1:51820", "block": 12}}'
    assert Scrubber(["", "ab"]).scrub(text) == text


@given(st.text(min_size=6, max_size=60), st.text(max_size=40), st.text(max_size=40))
def test_no_text_keeps_a_secret(secret: str, before: str, after: str) -> None:
    assert secret not in Scrubber([secret]).scrub(before + secret + after) or secret in HIDDEN


def test_the_archive_is_for_its_owner_and_over_no_other_file(tmp_path: Path) -> None:
    path = tmp_path / "bundle.tar.gz"
    write(path, {"a.txt": f"key {KEY}", "b.txt": "plain"}, Scrubber([KEY]))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with tarfile.open(path) as archive:
        names = archive.getnames()
        (first,) = (archive.extractfile(name) for name in names if name.endswith("a.txt"))
        assert first is not None
        assert first.read().decode() == f"key {HIDDEN}"
    with pytest.raises(StoreError, match="exists already"):
        write(path, {}, Scrubber([]))
