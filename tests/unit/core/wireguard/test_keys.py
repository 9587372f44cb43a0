"""A private key is hidden in every representation, and can be overwritten."""

import pytest

from dstack_vpn.core.wireguard.keys import PrivateKey


def test_a_wiped_key_is_gone() -> None:
    key = PrivateKey(bytes(range(32)))
    revealed = key.reveal()
    key.wipe()
    assert key.reveal() == bytes(32)
    assert revealed == bytes(range(32)), "a copy is beyond its reach"
    assert key == PrivateKey(bytes(32))


def test_a_key_shows_itself_to_nobody() -> None:
    key = PrivateKey(bytes(range(32)))
    assert repr(key) == "PrivateKey(***)"
    with pytest.raises(TypeError, match="not serialized"):
        key.__reduce__()
