"""The code of an `Extension`, as the opcodes' meaning requires, and its output."""

import pytest
from tests.fake_chain.code import run
from tests.fake_chain.registry import RevertError

from dstack_vpn.adapters.chain.extension import encode, parse
from dstack_vpn.core.chain.extension import Extension
from dstack_vpn.core.model import BlockRef
from dstack_vpn.errors import EndpointError

REVISION = bytes.fromhex("12345678")
CONTRACT = "0x" + "ab" * 20


def hash_of(number: int) -> str:
    return f"0x{number + 1:064x}"


def block(number: int) -> BlockRef:
    return BlockRef(number, hash_of(number), hash_of(number - 1), 0)


def shown(latest: int, *known: BlockRef, reply: bytes | None = None) -> Extension | None:
    """Run the code in a block; ``reply`` is the contract's to its revision, None a revert."""

    def call(calldata: bytes) -> bytes:
        assert calldata == REVISION
        if reply is None:
            raise RevertError
        return reply

    return parse(run(encode(known, CONTRACT, REVISION), latest, 1000 + latest, hash_of, call), known)


def test_the_end_of_a_chain_with_our_block_is_shown() -> None:
    head = BlockRef(299, hash_of(299), hash_of(298), 1300)
    assert shown(300, block(290), reply=(7).to_bytes(32, "big")) == Extension(block(290), head, 7)


@pytest.mark.parametrize("reply", [None, b"", b"short"])
def test_a_contract_without_a_revision_shows_none(reply: bytes | None) -> None:
    found = shown(300, block(290), reply=reply)
    assert found is not None
    assert found.revision is None


def test_no_revision_is_read_without_its_function() -> None:
    known = [block(290)]
    output = run(encode(known, CONTRACT, None), 300, 0, hash_of, lambda _: b"")
    found = parse(output, known)
    assert found is not None
    assert found.revision is None


@pytest.mark.parametrize(
    "ours",
    [BlockRef(290, "0x" + "ee" * 32, "", 0), block(300), block(301), block(300 - 257)],
    ids=["replaced", "latest", "later", "too old"],
)
def test_another_block_proves_nothing(ours: BlockRef) -> None:
    assert shown(300, ours) is None


def test_each_known_block_must_be_on_the_chain() -> None:
    assert shown(900, block(890), block(889), block(400)) is not None, "one is older than 256 blocks"
    for other in (889, 400):
        assert shown(900, block(890), BlockRef(other, "0x" + "ee" * 32, "", 0)) is None


@pytest.mark.parametrize(
    "output",
    [b"", b"\x00" * 96, b"\x00" * 129, b"\x00" * 192, b"\xff" * 128, b"\x00" * 128 + b"\xff" * 32],
)
def test_an_invalid_output_is_refused(output: bytes) -> None:
    with pytest.raises(EndpointError, match="code output"):
        parse(output, [block(1)])


def test_the_output_is_never_mistaken_for_code() -> None:
    """Nodes refuse created code that begins with 0xEF (EIP-3541)."""
    known = [block(2**64 - 3)]
    output = run(encode(known, CONTRACT, None), 2**64 - 1, 2**64 - 1, hash_of, lambda _: b"")
    assert output[0] == 0
