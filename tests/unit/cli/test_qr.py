"""QR codes in a terminal, read by another library."""

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.qr import scanned
from tests.unit.core.chain.invited import CODE, FOR_HOLDER

from dstack_vpn.cli.qr import qr
from dstack_vpn.core.chain.invitation_code import MAX_CODE


def test_a_code_is_scanned_as_it_was_drawn() -> None:
    for code in (CODE, FOR_HOLDER):
        assert scanned(qr(code.encode()).plain) == [code.encode()]


def test_the_longest_code_fits() -> None:
    text = "dvi1_" + "aB3-_" * ((MAX_CODE - 5) // 5)
    assert scanned(qr(text).plain) == [text]


@settings(max_examples=20, deadline=None)
@given(st.text("abcXYZ019-_:/.=[]", min_size=1, max_size=500))
def test_any_text_is_scanned_as_it_was_drawn(text: str) -> None:
    assert scanned(qr(text).plain) == [text]


def test_the_colours_are_dark_on_light() -> None:
    spans = qr("x").spans
    assert spans
    assert {str(span.style) for span in spans} == {"black on white"}
