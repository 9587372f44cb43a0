from dstack_vpn.core.chain.unsent import Unsent, WithheldError
from dstack_vpn.errors import AdminError, ChainError


def test_withholding_is_neither_a_failure_nor_a_reason_for_another_endpoint() -> None:
    """Commands absorb errors of these types; a withheld transaction has to pass them."""
    found = WithheldError([Unsent(1, None, b"")])
    assert not isinstance(found, AdminError | ChainError)
    assert found.transactions == (Unsent(1, None, b""),)
