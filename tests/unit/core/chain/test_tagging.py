import pytest

from dstack_vpn.core.chain.contract import MAX_TAGS
from dstack_vpn.core.chain.tagging import check_definitions, check_names, mask_of
from dstack_vpn.errors import FormatError

FULL = [f"tag-{number}" for number in range(MAX_TAGS)]


def test_names_are_labels_and_differ() -> None:
    assert check_names(["web", "a" * 63]) == ("web", "a" * 63)
    for bad in ("", "Web", "-web", "a" * 64, "we b", "web\n", "w\u00e9b"):
        with pytest.raises(FormatError, match="expected 1 to 63"):
            check_names(["ok", bad])
    with pytest.raises(FormatError, match="web is given twice"):
        check_names(["web", "db", "web"])


def test_a_tag_is_defined_once() -> None:
    check_definitions(["web"], [None, "db"])
    with pytest.raises(FormatError, match="db is defined already, as number 1"):
        check_definitions(["web", "db"], [None, "db"])


def test_the_257th_tag_is_refused() -> None:
    check_definitions(["last"], FULL[:-1])
    with pytest.raises(FormatError, match="has 256 of at most 256 tags, so 1 more"):
        check_definitions(["one-more"], FULL)
    with pytest.raises(FormatError, match="has 255 of at most 256 tags, so 2 more"):
        check_definitions(["a", "b"], FULL[:-1])


def test_a_mask_has_the_bits_of_its_tags() -> None:
    assert mask_of(["tag-255", "tag-0"], FULL) == 1 << 255 | 1
    assert mask_of([], FULL) == 0
    with pytest.raises(FormatError, match=r"does not define x \(defined: web\)"):
        mask_of(["web", "x"], ["web", None])
    with pytest.raises(FormatError, match=r"defined: none"):
        mask_of(["x"], [])
