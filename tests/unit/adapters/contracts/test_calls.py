"""Calldata, compared with that of eth-abi."""

import pytest
from eth_abi.abi import encode
from tests.unit.adapters.contracts.oracle import artifact

from dstack_vpn.adapters.contracts import calls, load_artifact
from dstack_vpn.core.wireguard.keys import PublicKey

ALICE, BOB = "0x" + "aa" * 20, "0x" + "bb" * 20
KEY = PublicKey(bytes(range(32)))
ROUTES = [
    bytes.fromhex("04" + "00" * 26 + "0a000000" + "08"),
    bytes.fromhex("06" + "00" * 14 + "fd" + "00" * 15 + "08"),
]


@pytest.mark.parametrize(
    ("data", "signature", "args"),
    [
        (
            calls.mint(ALICE, "web", KEY, "u"),
            "mintNodeAccess(address,string,string,string)",
            (ALICE, "web", str(KEY), "u"),
        ),
        (calls.revoke(7), "revokeNodeAccess(uint256)", (7,)),
        (calls.transfer(ALICE, BOB, 7), "transferFrom(address,address,uint256)", (ALICE, BOB, 7)),
        (calls.update_key(7, KEY), "updatePublicKey(uint256,string)", (7, str(KEY))),
        (calls.set_endpoint(7, "a:1"), "setEndpoint(uint256,string)", (7, "a:1")),
        (calls.set_expiry(7, 9), "setExpiry(uint256,uint64)", (7, 9)),
        (calls.define_tag("web"), "defineTag(string)", ("web",)),
        (calls.set_tags(7, 2**256 - 1), "setTags(uint256,uint256)", (7, 2**256 - 1)),
        (calls.set_routes(7, []), "setRoutes(uint256,bytes32[])", (7, [])),
        (calls.set_routes(7, ["10.0.0.0/8", "fd00::/8"]), "setRoutes(uint256,bytes32[])", (7, ROUTES)),
        (calls.multicall([]), "multicall(bytes[])", ([],)),
        (calls.multicall([b"", b"a" * 32, b"b" * 33]), "multicall(bytes[])", ([b"", b"a" * 32, b"b" * 33],)),
        (calls.add_minter(BOB), "addMinter(address)", (BOB,)),
        (calls.remove_minter(BOB), "removeMinter(address)", (BOB,)),
        (calls.add_policy_administrator(BOB), "addPolicyAdministrator(address)", (BOB,)),
        (calls.remove_policy_administrator(BOB), "removePolicyAdministrator(address)", (BOB,)),
        (calls.set_policy("{ // ü\r\n}"), "setPolicy(string)", ("{ // ü\r\n}",)),
        (calls.set_policy(""), "setPolicy(string)", ("",)),
        (calls.pause(), "pause()", ()),
        (calls.unpause(), "unpause()", ()),
        (calls.transfer_contract_ownership(BOB), "transferContractOwnership(address)", (BOB,)),
        (calls.accept_ownership(), "acceptOwnership()", ()),
        (calls.token_id_by_node_id("web"), "getTokenIdByNodeId(string)", ("web",)),
    ],
)
def test_calldata(data: bytes, signature: str, args: tuple[object, ...]) -> None:
    types = signature.rstrip(")").partition("(")[2]
    expected = bytes.fromhex(artifact()["functions"][signature][2:])
    assert data == expected + encode(types.split(",") if types else [], args)


def test_deploy() -> None:
    assert calls.deploy(ALICE) == load_artifact().bytecode + encode(["address"], [ALICE])
