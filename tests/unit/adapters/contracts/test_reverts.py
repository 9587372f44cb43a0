"""Descriptions of reverts."""

import pytest
from eth_abi.abi import encode
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.adapters.contracts.oracle import artifact

from dstack_vpn.adapters.contracts import describe_revert, load_artifact, signatures
from dstack_vpn.adapters.redact import Redactor

ALICE, BOB = "0x" + "aa" * 20, "0x" + "bb" * 20


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


def test_an_error_of_the_first_version_is_named() -> None:
    data = bytes.fromhex("03ad8012") + encode(["string", "uint256"], ["KEY", 7])
    assert describe_revert(data) == 'PublicKeyTaken("KEY", 7)'


def test_a_hash_is_shown_in_hexadecimal() -> None:
    selector = next(s for s, abi in load_artifact().errors.items() if abi.name == "InvitationUsed")
    assert describe_revert(selector + bytes(31) + b"\x07") == f"InvitationUsed(0x{7:064x})"


def test_every_error_has_only_arguments_that_can_be_shown() -> None:
    kinds = {kind for abi in load_artifact().errors.values() for kind in abi.types}
    assert kinds <= {"string", "address", "uint256", "uint64", "bytes32"}


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
