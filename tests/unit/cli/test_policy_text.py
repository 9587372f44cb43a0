"""Policies from files: their problems with positions, and their findings in a registry."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from click.exceptions import Exit
from tests.unit.core.policy.examples import DIRECTORY, POLICY

from dstack_vpn.cli.policy_text import Findings, read_file, reading, refusal, usable_file
from dstack_vpn.core.chain.contract import ContractState
from dstack_vpn.core.policy.directory import MemberDirectory
from dstack_vpn.core.policy.document import parse_policy
from dstack_vpn.core.policy.hujson import TextError
from dstack_vpn.errors import AdminError, EndpointError, TryAgainError

CONTRACT = ContractState(is_read=True, tag_names=("web", "db", "ops", "gateway", "idle"))


def test_a_file_keeps_its_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = POLICY.replace("\n", "\r\n")
    path = tmp_path / "a\tpolicy.json"
    path.write_bytes(text.encode())
    found = read_file(path)
    assert (found.name, found.text) == (str(tmp_path) + "/a\\x09policy.json", text)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    piped = read_file(Path("-"))
    assert (piped.name, piped.text, piped.document) == ("<stdin>", text, found.document)


@pytest.mark.parametrize("name", ["missing", "", "a\0b", "x" * 5000])
def test_a_file_that_can_not_be_read(tmp_path: Path, name: str) -> None:
    with pytest.raises(AdminError, match="can't read") as caught:
        read_file(tmp_path / name)
    assert str(caught.value).isprintable()


def test_a_refused_text_is_shown_in_the_form_of_editors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "policy.json"
    path.write_text('{"grants": [\n  5]}')
    with pytest.raises(Exit) as caught:
        usable_file(path)
    assert caught.value.exit_code == 1
    assert capsys.readouterr().err == f"{path}:2:3: expected an object\n"
    assert refusal(Path("-"), TextError("a\nb", 3, 4)) == "<stdin>:3:4: a\\x0ab"


def findings(grants: list[Any], *tests: Any) -> Findings:
    document = parse_policy(json.dumps({"grants": grants, "tests": tests}, indent=1))
    return Findings.of(document, DIRECTORY, CONTRACT)


def test_findings_of_a_policy(capsys: pytest.CaptureFixture[str]) -> None:
    grant = {"src": ["tag:web", "tag:idle", "tag:new"], "dst": ["node:gone", "*"], "ip": ["tcp:1"]}
    test = {"src": "tag:newer", "deny": ["tag:db:tcp:1"]}
    found = findings([grant], test)
    assert found.warnings == (
        "tag:new is not defined in the registry",
        "tag:newer is not defined in the registry",
        "tag:idle names no member",
        "node:gone names no member",
    )
    (failure,) = found.failures
    assert (failure["number"], failure["problem"]) == (1, "tag:newer names no member")
    found.show("policy.json")
    shown = capsys.readouterr()
    assert shown.err.splitlines()[0] == "warning: policy.json: tag:new is not defined in the registry"
    assert shown.err.splitlines()[-1] == (
        f"policy.json:{failure['line']}: test 1 fails: tag:newer names no member"
    )
    assert Findings.of(parse_policy(POLICY), DIRECTORY, CONTRACT) == Findings((), ())


def test_networks_that_open_nothing_are_reported() -> None:
    targets = ["192.168.7.9/32", "192.168.0.0/16", "10.9.0.0/16", "fd00:7::/64", "autogroup:internet"]
    grant = {"src": ["*", "192.168.7.0/24"], "dst": targets, "ip": ["*"]}
    assert findings([grant]).warnings == (
        "192.168.7.0/24 opens nothing as a source: a gateway lets no connection from its network in",
        "10.9.0.0/16 overlaps no route of a member",
        "fd00:7::/64 overlaps no route of a member",
    )
    document = parse_policy(json.dumps({"grants": [grant | {"dst": ["autogroup:internet"]}]}))
    without = MemberDirectory.of(DIRECTORY.members[:4], DIRECTORY.prefixes)
    assert Findings.of(document, without, CONTRACT).warnings[1:] == (
        "autogroup:internet: no member has 0.0.0.0/0 or ::/0 among its routes",
    )


def test_an_error_of_the_chain_is_temporary() -> None:
    async def fail() -> None:
        raise EndpointError("away")

    with pytest.raises(TryAgainError, match="the registry can't be read: away"):
        reading(fail())
