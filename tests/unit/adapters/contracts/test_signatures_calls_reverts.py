"""Constants against the artifact; calldata against eth-abi; reverts in words."""

import pytest
from eth_abi.abi import encode
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.adapters.contracts.oracle import artifact

from dstack_vpn.adapters.contracts import ABIS, by_name, calls, describe_revert, load_artifact, signatures
from dstack_vpn.adapters.redact import Redactor
from dstack_vpn.core.wireguard.keys import PublicKey
from dstack_vpn.errors import FormatError

ALICE, BOB = "0x" + "aa" * 20, "0x" + "bb" * 20
KEY = PublicKey(bytes(range(32)))
NO_FUNCTION = {"ACCESS_REGISTRY_ID", "NO_INTERFACE_ID", "ERROR", "PANIC"}


def screaming(name: str) -> str:
    return "".join("_" + c if c.isupper() else c for c in name.replace("URI", "Uri")).upper().lstrip("_")


def constants(kind: type) -> dict[str, object]:
    names = [name for name in vars(signatures) if name.isupper() and name not in NO_FUNCTION]
    return {name: value for name in names if isinstance(value := getattr(signatures, name), kind)}


def test_selectors_are_those_of_the_artifact() -> None:
    functions = {
        screaming(text.partition("(")[0]): value for text, value in load_artifact().functions.items()
    }
    assert constants(bytes) == {name: functions[name] for name in constants(bytes)}


def test_topics_are_those_of_the_artifact() -> None:
    events = {screaming(text.partition("(")[0]): value for text, value in load_artifact().events.items()}
    assert constants(str) == {name: events[name] for name in constants(str)}


def test_the_artifact_is_package_data() -> None:
    loaded = load_artifact()
    assert loaded.bytecode.hex() == artifact()["bytecode"][2:]
    assert list(loaded.abi) == artifact()["abi"]
    assert loaded.errors[bytes.fromhex("1105d3cb")].types == ("string", "uint256")


def test_by_name() -> None:
    assert {by_name(name).name for name in ABIS} == {"access-registry", "dstack-access-nft"}
    with pytest.raises(FormatError, match="access-registry"):
        by_name("x")


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
        (calls.add_minter(BOB), "addMinter(address)", (BOB,)),
        (calls.remove_minter(BOB), "removeMinter(address)", (BOB,)),
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


# -- reverts ------------------------------------------------------------------------------------------


def error(name: str, *args: object) -> bytes:
    signature = next(x for x in artifact()["errors"] if x.startswith(f"{name}("))
    types = signature.rstrip(")").partition("(")[2]
    return bytes.fromhex(artifact()["errors"][signature][2:]) + encode(
        types.split(",") if types else [], args
    )


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (error("NodeIdTaken", "web", 1), 'NodeIdTaken("web", 1)'),
        (error("NotMinter", ALICE), f"NotMinter({ALICE})"),
        (error("ExpiryInPast", 5, 6), "ExpiryInPast(5, 6)"),
        (error("EnforcedPause"), "EnforcedPause()"),
        (error("UnknownNodeId", 'a"\n\x1b[2J'), 'UnknownNodeId("a\\"\\n\\u001b[2J")'),
        (error("UnknownNodeId", "x" * 9999), 'UnknownNodeId("' + "x" * 99 + '\\u2026")'),
        (bytes.fromhex("08c379a0") + encode(["string"], ["no"]), 'reverted: "no"'),
        (bytes.fromhex("4e487b71") + encode(["uint256"], [0x11]), "panic: arithmetic overflow"),
        (bytes.fromhex("4e487b71") + encode(["uint256"], [99]), "panic: code 99"),
        (b"", "reverted without a reason"),
        (b"\x01\x02\x03\x04", "reverted with an unknown error (0x01020304)"),
        (b"\x01", "reverted with an unknown error (0x01)"),
        (error("NodeIdTaken", "web", 1)[:40], "reverted with an error that can't be read (0x1105d3cb)"),
    ],
)
def test_a_revert_in_words(data: bytes, expected: str) -> None:
    assert describe_revert(data) == expected


def test_every_error_has_only_arguments_that_can_be_shown() -> None:
    kinds = {kind for abi in load_artifact().errors.values() for kind in abi.types}
    assert kinds <= {"string", "address", "uint256", "uint64"}


@given(
    st.sampled_from([b"", *load_artifact().errors, signatures.ERROR, signatures.PANIC]),
    st.binary(max_size=200),
)
def test_whatever_the_data_is_there_is_one_printable_line(selector: bytes, arguments: bytes) -> None:
    text = describe_revert(selector + arguments)
    assert text.isprintable()
    assert len(text) < 1000


def test_a_secret_in_a_reason_is_redacted_before_the_reason_is_cut() -> None:
    redactor = Redactor(["s3cr3t-key"])
    for blanks in range(260):
        data = signatures.ERROR + bytes(encode(["string"], [" " * blanks + "s3cr3t-key"]))
        assert "s3" not in describe_revert(data, redactor.beginning)
