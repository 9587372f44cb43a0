"""Policies as text: the accepted language, and the position of each problem."""

import json
from typing import Any

import pytest
from tests.unit.core.policy.examples import POLICY

from dstack_vpn.core.chain.contract import MAX_POLICY
from dstack_vpn.core.policy.document import (
    Expectation,
    Grant,
    PolicyDocument,
    PortTarget,
    decode_policy,
    parse_policy,
)
from dstack_vpn.core.policy.hujson import TextError
from dstack_vpn.core.policy.selectors import Ports, Selector


def test_a_policy_has_grants_and_tests() -> None:
    found = parse_policy(POLICY)
    assert len(found.grants) == 4
    assert found.grants[0] == Grant(
        (Selector.parse("tag:web"),), (Selector.parse("tag:db"),), (Ports.parse("tcp:5432"),)
    )
    assert list(map(str, found.grants[2].dst)) == ["192.168.7.0/24", "autogroup:internet"]
    assert found.tests == (
        Expectation(
            Selector.parse("node:web-1"),
            (PortTarget(Selector.parse("node:db"), Ports.parse("tcp:5432")),),
            (
                PortTarget(Selector.parse("node:db"), Ports.parse("tcp:22")),
                PortTarget(Selector.parse("tag:ops"), Ports.parse("icmp:*")),
            ),
        ),
    )
    assert str(found.tests[0].accept[0]) == "node:db:tcp:5432"


def test_a_policy_without_grants_allows_nothing() -> None:
    assert parse_policy('{"grants": []}') == PolicyDocument(())


def grant(**changes: Any) -> str:
    return json.dumps({"grants": [{"src": ["*"], "dst": ["*"], "ip": ["*"], **changes}]})


def checking(**changes: Any) -> str:
    return json.dumps({"grants": [], "tests": [{"src": "tag:a", "accept": ["tag:b:tcp:1"], **changes}]})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "line 1, column 1: expected an object"),
        ("{}", "line 1, column 1: the key 'grants' is missing"),
        ('{"grants": {}}', "line 1, column 12: expected a list"),
        ('{"grants": [], "acls": []}', "column 24: the key 'acls' is unknown (expected grants, tests)"),
        ('{"grants": [], "grants": []}', "the key 'grants' occurs twice"),
        ('{"grants": [\n  1]}', "line 2, column 3: expected an object"),
        (grant(src=[]), "the list is empty"),
        (grant(ip="*"), "expected a list"),
        (grant(dst=[1]), "expected a string"),
        (grant(src=["autogroup:self"]), "autogroup:self selects destinations only"),
        (grant(src=["autogroup:internet"]), "selects destinations only"),
        (grant(dst=["group:eng"]), "expected *, tag:NAME"),
        (grant(ip=["443"]), "expected *, icmp:*, or tcp: or udp:"),
        (grant(app={}), "the key 'app' is unknown"),
        (checking(src="*"), "expected tag:NAME, node:ID or owner"),
        (checking(accept=["*:tcp:1"]), "expected a destination"),
        (checking(accept=["tag:b:tcp:1-2"]), "a test names one port"),
        (checking(accept=["tag:b"]), "expected SELECTOR:PROTOCOL:PORT"),
        (checking(accept=[]), "neither accept nor deny"),
        ('{"\x1b[2J\ud800": 1, "grants": []}', "not JSON"),
        ('{"\\u001b[2J\\ud800": 1, "grants": []}', "the key '\\x1b[2J\\ud800' is unknown"),
        (" " * (MAX_POLICY + 1), "more than 24,000 bytes"),
    ],
)
def test_other_policies_are_refused_with_a_position(text: str, message: str) -> None:
    with pytest.raises(TextError, match=r"line [0-9]+, column [0-9]+: ") as caught:
        parse_policy(text)
    assert message in str(caught.value)
    assert str(caught.value).isprintable()


def test_grants_and_tests_have_their_lines() -> None:
    found = parse_policy(POLICY)
    assert [grant.line for grant in found.grants] == [4, 5, 7, 8]
    assert [test.line for test in found.tests] == [11]
    crlf = parse_policy(POLICY.replace("\n", "\r\n"))
    assert [grant.line for grant in crlf.grants] == [4, 5, 7, 8]
    assert crlf == found
    assert parse_policy('{"grants": [], "tests": []}').grants == ()


def test_the_bytes_of_a_file_are_utf_8_of_a_limited_size() -> None:
    assert decode_policy("{ // Zürich\r\n}".encode()) == "{ // Zürich\r\n}"
    assert len(decode_policy(b" " * MAX_POLICY)) == MAX_POLICY
    for content, problem in (
        (b" " * (MAX_POLICY + 1), "line 1, column 1: the policy has more than 24,000 bytes"),
        ("{\n ü".encode() + b"\xff", "line 2, column 3: not UTF-8"),
        ("ü".encode("latin-1"), "line 1, column 1: not UTF-8"),
        ("\nü".encode()[:-1], "line 2, column 1: not UTF-8"),
    ):
        with pytest.raises(TextError) as caught:
            decode_policy(content)
        assert str(caught.value) == problem
