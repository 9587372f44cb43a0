"""The CSV file: each malformed line is named, and no line is quoted."""

import pytest
from tests.anvil import key_of

from dstack_vpn.core.chain.enrolment import Enrolment
from dstack_vpn.core.chain.enrolment_file import MOST_ROWS, parse
from dstack_vpn.core.paths.peer_endpoint import PeerEndpoint
from dstack_vpn.errors import FormatError

HEAD = "node_id,holder,public_key,endpoint,tags,routes,expires"
HOLDER = "0x" + "aa" * 20
K1, K2 = str(key_of(1)), str(key_of(2))
GOOD = f"web-1,{HOLDER},{K1},a.example:1,web db,fd00::/8 10.0.0.0/8,2030-01-01"


def account(text: str) -> str:
    if len(text) != 42:
        raise FormatError("holder: expected 0x and 40 hexadecimal digits")
    return text.lower()


def problems(*lines: str) -> str:
    with pytest.raises(FormatError) as caught:
        parse("\n".join(lines), account)
    return str(caught.value)


def test_a_row_has_all_fields() -> None:
    assert parse(f"{HEAD}\r\n{GOOD}\r\n\r\n", account) == (
        Enrolment(
            "web-1",
            HOLDER,
            key_of(1),
            PeerEndpoint.parse("a.example:1"),
            ("web", "db"),
            ("10.0.0.0/8", "fd00::/8"),
            1893456000,
        ),
    )


def test_columns_have_any_order_and_some_are_optional() -> None:
    text = f"\ufeffpublic_key, node_id ,holder\n{K1},web-1,{HOLDER}\n{K2}, web-2 ,{HOLDER}"
    assert parse(text, account) == (
        Enrolment("web-1", HOLDER, key_of(1)),
        Enrolment("web-2", HOLDER, key_of(2)),
    )


@pytest.mark.parametrize(
    ("text", "moment"), [("1900000000", 1_900_000_000), ("", 0), (str(2**64 - 1), 2**64 - 1)]
)
def test_expiries(text: str, moment: int) -> None:
    (row,) = parse(f"{HEAD}\nweb-1,{HOLDER},{K1},,,,{text}", account)
    assert row.expires_at == moment


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (f"Web,{HOLDER},{K1},,,,", "node id: expected 1 to 63"),
        (f"web,0x12,{K1},,,,", "expected 0x and 40"),
        (f"web,0x{'0' * 40},{K1},,,,", "the zero address"),
        (f"web,{HOLDER},nonsense,,,,", "key"),
        (f"web,{HOLDER},{K1},127.0.0.1:1,,,", "endpoint"),
        (f"web,{HOLDER},{K1},,a a,,", "a is given twice"),
        (f"web,{HOLDER},{K1},,A,,", "tag: expected 1 to 63"),
        (f"web,{HOLDER},{K1},,,10.0.0.1/8,", "write 10.0.0.0/8"),
        (f"web,{HOLDER},{K1},,,10.0.0.0/8 10.0.0.0/9,", "overlap"),
        (f"web,{HOLDER},{K1},,,,+30d", "expires: expected"),
        (f"web,{HOLDER},{K1},,,,0", "expires: expected"),
        (f"web,{HOLDER},{K1},,,,{2**64}", "expires: expected"),
        (f"web,{HOLDER},{K1},,,,{'9' * 5000}", "expires: expected"),
        (f"web,{HOLDER},{K1}", "3 fields, but the first line names 7"),
        (f'web,{HOLDER},{K1},"a"b,,,', "the CSV is malformed"),
        (f'web,{HOLDER},{K1},"open,,,', "the CSV is malformed"),
        (f"web,{HOLDER},{K1},{'x' * 200_000},,,", "the CSV is malformed"),
    ],
)
def test_a_malformed_line_is_named(line: str, problem: str) -> None:
    found = problems(HEAD, GOOD.replace(K1, K2), line)
    assert found.startswith("nothing was sent:\n  - line 3: ")
    assert problem in found


def test_duplicates_name_both_lines() -> None:
    found = problems(HEAD, GOOD, GOOD.replace(K1, K2), GOOD.replace("web-1", "web-2"))
    assert "line 3: its node id is that of line 2" in found
    assert "line 4: its key is that of line 2" in found


@pytest.mark.parametrize(
    "head",
    ["", "node_id,holder", "node_id,holder,public_key,colour", "node_id,node_id,holder,public_key", GOOD],
)
def test_a_header_is_required(head: str) -> None:
    assert "the first line must name the columns node_id, holder, public_key" in problems(head, GOOD)


def test_an_empty_list_and_a_very_long_one_are_refused() -> None:
    assert "no rows" in problems(HEAD)
    assert "divide it" in problems(HEAD, *["x"] * (MOST_ROWS + 1))


def test_many_problems_are_cut() -> None:
    found = problems(HEAD, *["x"] * 30)
    assert found.count("\n") == 21 and found.endswith("and 10 more")
