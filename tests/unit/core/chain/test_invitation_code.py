"""Codes of invitations: round trips, and the refusal of every alteration."""

import pickle
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.core.chain.invited import (
    CLAIM_KEYS,
    CODE,
    FOR_HOLDER,
    REGISTRY,
    TERMS,
    codes,
    content_of,
    sealed,
)

from dstack_vpn.core.chain.invitation import RegistryAddress
from dstack_vpn.core.chain.invitation_code import MAX_CODE, MAX_SIGNATURE, ClaimKey, InvitationCode
from dstack_vpn.errors import FormatError

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
OTHERS = ".~+/= \n\x00é"


@settings(max_examples=200, deadline=None)
@given(codes)
def test_a_code_is_decoded_to_what_was_encoded(code: InvitationCode) -> None:
    text = code.encode()
    assert len(text) <= MAX_CODE
    assert set(text) <= set(ALPHABET)
    assert InvitationCode.decode(text) == code
    assert InvitationCode.decode(f"  {text}\n") == code


def test_a_usual_code_fits_in_few_lines() -> None:
    assert len(CODE.encode()) <= 320


def test_the_longest_code_is_within_the_limit() -> None:
    routes = tuple(f"fd00:{i:x}::/32" for i in range(100, 116))
    terms = replace(TERMS, node_id="a" * 63, tags=2**256 - 1, salt=2**256 - 1, routes=routes)
    longest = InvitationCode(REGISTRY, terms, bytes(MAX_SIGNATURE), CLAIM_KEYS[0])
    assert MAX_CODE - 10 < len(longest.encode()) <= MAX_CODE
    assert InvitationCode.decode(longest.encode()) == longest


@pytest.mark.parametrize("code", [CODE, FOR_HOLDER])
def test_every_altered_character_is_refused(code: InvitationCode) -> None:
    text, draw = code.encode(), random.Random(7)
    for at, character in enumerate(text):
        others = [c for c in ALPHABET + OTHERS if c != character]
        for other in (*draw.sample(others, 12), character.swapcase()):
            altered = text[:at] + other + text[at + 1 :]
            if altered.strip() != text:
                with pytest.raises(FormatError, match="invitation code"):
                    InvitationCode.decode(altered)


def test_every_missing_added_and_exchanged_character_is_refused() -> None:
    text = CODE.encode()
    for at in range(len(text)):
        exchanged = text[:at] + text[at + 1 : at + 2] + text[at] + text[at + 2 :]
        for altered in (text[:at] + text[at + 1 :], text[:at] + "A" + text[at:], text[:at], exchanged):
            if altered != text:
                with pytest.raises(FormatError, match="invitation code"):
                    InvitationCode.decode(altered)


@settings(max_examples=500, deadline=None)
@given(st.one_of(st.text(), st.binary(max_size=400).map(sealed), st.text(ALPHABET).map("dvi1_".__add__)))
def test_any_text_is_refused_with_a_documented_error(text: str) -> None:
    with pytest.raises(FormatError):
        InvitationCode.decode(text)


@settings(max_examples=500, deadline=None)
@given(codes, st.integers(0, 10_000), st.integers(1, 255))
def test_a_code_with_other_content_is_another_invitation_or_is_refused(
    code: InvitationCode, at: int, flip: int
) -> None:
    content = bytearray(content_of(code))
    content[at % len(content)] ^= flip
    text = sealed(bytes(content))
    try:
        found = InvitationCode.decode(text)
    except FormatError:
        return
    assert found != code
    assert found.encode() == text


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "does not begin with 'dvi1_'"),
        ("https://example.org", "does not begin with 'dvi1_'"),
        ("dvi2_" + CODE.encode()[5:], "version 2 is unknown"),
        (CODE.encode()[:-1], "checksum is wrong"),
        (CODE.encode() + "A" * 4, "checksum is wrong"),
        (CODE.encode()[:50] + "\n" + CODE.encode()[50:], "a character that no code has"),
        ("dvi1_" + "A" * MAX_CODE, f"longer than {MAX_CODE} characters"),
        (" " * 3 * MAX_CODE, f"longer than {MAX_CODE} characters"),
        (sealed(content_of(CODE)[:40]), "ends too early"),
        (sealed(content_of(CODE) + b"x"), "continues after its end"),
    ],
)
def test_each_mistake_has_its_message(text: str, problem: str) -> None:
    with pytest.raises(FormatError, match=problem) as caught:
        InvitationCode.decode(text)
    assert CODE.encode()[60:80] not in str(caught.value)


def test_a_code_needs_a_signature_and_its_own_one_time_key() -> None:
    with pytest.raises(FormatError, match="signature"):
        replace(CODE, signature=b"")
    with pytest.raises(FormatError, match="signature"):
        replace(CODE, signature=bytes(MAX_SIGNATURE + 1))
    with pytest.raises(FormatError, match="one-time key is another"):
        replace(CODE, claim_key=CLAIM_KEYS[1])
    with pytest.raises(FormatError, match="chain id"):
        replace(CODE, registry=RegistryAddress(0, REGISTRY.contract))


def test_a_one_time_key_is_not_shown() -> None:
    key = ClaimKey(bytes([7]) * 32)
    assert "07" not in repr(key)
    assert bytes([1]).hex() * 4 not in repr(CODE)
    with pytest.raises(TypeError):
        pickle.dumps(key)
    assert (key == ClaimKey(bytes([7]) * 32), key == CLAIM_KEYS[0]) == (True, False)
    assert len({key, ClaimKey(bytes([7]) * 32)}) == 1


@pytest.mark.parametrize("raw", [b"", bytes(32), bytes([255]) * 32, bytes(33)])
def test_an_invalid_one_time_key_is_refused(raw: bytes) -> None:
    with pytest.raises(FormatError):
        ClaimKey(raw)
