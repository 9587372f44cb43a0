"""Calldata and replies of invitations, compared with those of eth-abi."""

import pytest
from eth_abi.abi import encode
from tests.unit.adapters.contracts.oracle import artifact
from tests.unit.core.chain.invited import CODE, FOR_HOLDER

from dstack_vpn.adapters.contracts import invitations
from dstack_vpn.core.chain.invitation import route_word
from dstack_vpn.core.chain.invitation_code import InvitationCode
from dstack_vpn.core.wireguard.keys import PublicKey
from dstack_vpn.errors import FormatError

TUPLE = "(string,uint256,bytes32[],uint64,uint64,address,address,address,uint256)"
KEY = PublicKey(bytes(range(32)))
HASH = bytes(range(32))


@pytest.mark.parametrize("code", [CODE, FOR_HOLDER])
@pytest.mark.parametrize("endpoint", ["", "vpn.example.org:51820"])
@pytest.mark.parametrize("claim", [b"", bytes(65)])
def test_redeem(code: InvitationCode, endpoint: str, claim: bytes) -> None:
    terms = code.invitation
    fields = (
        *(terms.node_id, terms.tags, [route_word(route) for route in terms.routes], terms.expires_at),
        *(terms.deadline, terms.minter, terms.holder, terms.claimant, terms.salt),
    )
    selector = bytes.fromhex(artifact()["functions"][f"redeem({TUPLE},bytes,string,string,bytes)"][2:])
    expected = encode(
        [TUPLE, "bytes", "string", "string", "bytes"], [fields, code.signature, str(KEY), endpoint, claim]
    )
    assert invitations.redeem(terms, code.signature, KEY, endpoint, claim) == selector + expected


@pytest.mark.parametrize(
    ("data", "signature", "value"),
    [
        (invitations.cancel(HASH), "cancelInvitation(bytes32)", HASH),
        (invitations.is_used(HASH), "isInvitationUsed(bytes32)", HASH),
        (invitations.is_minter("0x" + "ab" * 20), "isMinter(address)", bytes(12) + b"\xab" * 20),
    ],
)
def test_calldata(data: bytes, signature: str, value: bytes) -> None:
    assert data == bytes.fromhex(artifact()["functions"][signature][2:]) + value


def test_tags() -> None:
    hostile = ["web", "\x1b[31m", "", "a" * 64, "gateway"]
    assert invitations.parse_tags(encode(["string[]"], [hostile])) == ["web", None, None, None, "gateway"]
    assert invitations.parse_tags(encode(["string[]"], [[]])) == []


@pytest.mark.parametrize("reply", [b"", bytes(31), b"\xff" * 64, encode(["string[]"], [["a"] * 257])])
def test_a_malformed_reply_is_refused(reply: bytes) -> None:
    with pytest.raises(FormatError):
        invitations.parse_tags(reply)
