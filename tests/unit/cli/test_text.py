"""Foreign text for a terminal."""

import pytest

from dstack_vpn.cli.text import printable, printable_lines, printable_text


@pytest.mark.parametrize("text", ["\x00", "\x1b[31m", "\x7f", "\x9b", "\u202e", "\u2028", "\ufeff", "\udcff"])
def test_control_characters_are_escaped(text: str) -> None:
    for shown in (printable(text), printable_lines(text), printable_text(text)):
        assert shown.isprintable()
        assert shown.endswith(f"\\x{ord(text[0]):02x}{text[1:]}")


def test_a_text_keeps_its_lines_and_tabs() -> None:
    assert printable_text("a\r\n\r\n\tb\rc\n") == "a\n\n\tb\\x0dc\n"
    assert printable_lines("a\tb\nc") == "a\\x09b\nc"
    assert printable("a\nb") == "a\\x0ab"
    assert printable(None) == printable("") == "-"
