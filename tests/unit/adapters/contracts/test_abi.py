import tracemalloc

import pytest
from eth_abi.abi import decode
from eth_abi.abi import encode as oracle_encode
from hypothesis import given
from hypothesis import strategies as st

from dstack_vpn.adapters.contracts.abi import Reader, address_word, encode, topic_address, topic_uint
from dstack_vpn.errors import FormatError

words = st.integers(0, 2**256 - 1)


def word(value: int) -> bytes:
    return value.to_bytes(32, "big")


@given(words, st.binary(max_size=100), st.binary(min_size=20, max_size=20), st.booleans())
def test_reads_what_another_encoder_wrote(number: int, blob: bytes, address: bytes, flag: bool) -> None:
    text = "0x" + address.hex()
    data = oracle_encode(["uint256", "bytes", "address", "bool"], [number, blob, text, flag])
    reader = Reader(data)
    assert (reader.uint(0), reader.blob(0, 32), reader.address(64), reader.flag(96)) == (
        number,
        blob,
        text,
        flag,
    )


@given(
    st.lists(words | st.text(st.characters(exclude_categories=["Cs"])) | st.binary(max_size=70), max_size=5)
)
def test_encodes_what_another_decoder_reads(values: list[int | str | bytes]) -> None:
    kinds = {int: "uint256", str: "string", bytes: "bytes"}
    assert decode([kinds[type(x)] for x in values], encode(*values)) == tuple(values)


@pytest.mark.parametrize("offset", [1, 32, 2**31, 2**64 - 1, 2**256 - 1])
def test_an_offset_past_the_end(offset: int) -> None:
    with pytest.raises(FormatError):
        Reader(word(offset)).blob(0, 0)


@pytest.mark.parametrize("length", [1, 2**63, 2**256 - 1])
def test_a_length_past_the_end(length: int) -> None:
    with pytest.raises(FormatError, match="shorter"):
        Reader(word(32) + word(length)).blob(0, 0)


@pytest.mark.parametrize("count", [1, 2**40, 2**256 - 1])
def test_a_count_past_the_end(count: int) -> None:
    with pytest.raises(FormatError, match="shorter"):
        Reader(word(32) + word(count)).tuples(0, 0)


def test_no_byte_is_read_twice() -> None:
    """Offsets to one shared megabyte are refused. 10,000 of them would copy 10 GB."""
    shared = word(1_000_000) + bytes(1_000_000)
    offsets = b"".join(word(32 * 100) for _ in range(100))
    reader = Reader(offsets + shared)
    tracemalloc.start()
    with pytest.raises(FormatError, match="overlap"):
        for i in range(100):
            reader.blob(0, 32 * i)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3_000_000


def test_an_offset_into_itself() -> None:
    with pytest.raises(FormatError):
        Reader(word(0)).blob(0, 0)


@pytest.mark.parametrize("raw", [word(2), word(2**255)])
def test_no_flag(raw: bytes) -> None:
    with pytest.raises(FormatError, match="1 bits"):
        Reader(raw).flag(0)


def test_no_address() -> None:
    with pytest.raises(FormatError, match="160 bits"):
        Reader(word(2**160)).address(0)
    with pytest.raises(FormatError):
        topic_address("0x" + "1" * 64)
    with pytest.raises(FormatError):
        topic_address("0x" + "0" * 24 + "1" * 39)


def test_topics() -> None:
    assert topic_uint("0x" + "0" * 62 + "ff") == 255
    assert topic_address("0x" + "0" * 24 + "ab" * 20) == "0x" + "ab" * 20
    with pytest.raises(FormatError):
        topic_uint("0xzz")


@pytest.mark.parametrize(
    "text", ["", "0x", "ab" * 21, "0x" + "g" * 40, "0x" + "1" * 41, "0x" + "1_" * 20, "0x-" + "1" * 39]
)
def test_address_words_are_checked(text: str) -> None:
    with pytest.raises(FormatError):
        address_word(text)


def test_address_words_take_checksummed_addresses() -> None:
    assert (
        address_word("0x37d2106bADB01dd5bE1926e45D172Cb4203C4186")
        == 0x37D2106BADB01DD5BE1926E45D172CB4203C4186
    )
