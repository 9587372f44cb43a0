import pytest

from dstack_vpn.adapters.contracts import ABIS, by_name
from dstack_vpn.errors import FormatError


def test_by_name() -> None:
    assert {by_name(name).name for name in ABIS} == {
        "access-registry",
        "access-registry-v1",
        "dstack-access-nft",
    }
    with pytest.raises(FormatError, match="access-registry"):
        by_name("x")
