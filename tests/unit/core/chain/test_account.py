"""An account's address equals the address that the signing library derives."""

import pytest
from eth_account import Account
from eth_utils.crypto import keccak
from hypothesis import given, settings
from hypothesis import strategies as st

from dstack_vpn.core.chain.account import address_of, keccak256
from dstack_vpn.errors import FormatError


@settings(max_examples=20)
@given(st.integers(1, 2**255))
def test_the_address_is_the_librarys(scalar: int) -> None:
    secret = f"0x{scalar:064x}"
    assert address_of(secret) == Account.from_key(secret).address.lower()


@settings(max_examples=50)
@given(st.binary(max_size=300))
def test_the_hash_is_the_librarys(data: bytes) -> None:
    assert keccak256(data) == keccak(data)


@pytest.mark.parametrize("secret", ["", "zz", "0x0", "f" * 64, "0x" + "1" * 70])
def test_what_is_no_key_is_refused_and_not_repeated(secret: str) -> None:
    with pytest.raises(FormatError, match="account: expected") as error:
        address_of(secret)
    assert not secret or secret not in str(error.value)
