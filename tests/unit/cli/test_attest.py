"""`attest verify` exits with 0 only if every relevant part of the machine was compared."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
from tests.quotes import Authority, Made
from tests.unit.cli.conftest import Cli, Ran

from dstack_vpn.adapters.attest.verify import Judgement
from dstack_vpn.cli import attest
from dstack_vpn.core.attest.quote import report_data
from dstack_vpn.core.wireguard.keys import PublicKey

KEY: Final = PublicKey(bytes(range(32)))
AUTHORITY: Final = Authority()
MADE: Final = Made(report_data(KEY), AUTHORITY)
Verify = Callable[..., Ran]


@pytest.fixture
def verify(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Verify:
    """Return the command over `MADE`, with its root in place of Intel's."""
    judgement = attest._judgement

    def ours(*arguments: Any) -> Judgement:
        return replace(judgement(*arguments), root=AUTHORITY.anchor)

    monkeypatch.setattr(attest, "_judgement", ours)
    said = {"quote": MADE.quote().hex(), "event_log": MADE.event_log, "public_key": str(KEY)}
    files = {
        "said.json": said,
        "intel.json": json.loads(AUTHORITY.collateral()),
        "expect.json": MADE.expected,
    }
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))

    def call(*arguments: str) -> Ran:
        paths = [str(tmp_path / a[1:]) if a.startswith("@") else a for a in arguments]
        return cli("attest", "verify", str(tmp_path / "said.json"), *paths)

    return call


ALL: Final = ("--public-key", str(KEY), "--collateral", "@intel.json", "--expect", "@expect.json")


def test_everything_compared_is_valid(verify: Verify) -> None:
    ran = verify(*ALL)
    assert ran.code == 0, ran
    assert ran.out.splitlines()[-1] == f"valid: {KEY} is attested"
    assert "ok      kernel (RTMR1)" in ran.out
    assert "  not compared: application (RTMR3)" in ran.out
    document = json.loads(verify(*ALL, "--json").out)
    assert (document["verdict"], document["valid"], document["missing"]) == ("valid", True, [])
    assert document["measurements"]["os-image-hash"] == "44" * 32


def test_what_was_called_valid_before_is_incomplete(verify: Verify) -> None:
    ran = verify(
        *("--public-key", str(KEY), "--compose-hash", "22" * 32, "--app-id", "11" * 20),
        *("--instance-id", "33" * 20, "--mrtd", "d0" * 48),
    )
    assert ran.code == 1
    assert "! not compared: kernel (RTMR1)" in ran.out
    assert "! not compared: TDX module (MRSEAM)" in ran.out
    assert "! not compared: the quote is genuine" in ran.out
    assert ran.out.splitlines()[-1].startswith(f"incomplete: {KEY} is NOT attested")


@pytest.mark.parametrize("left_out", [0, 2, 4])
def test_each_part_is_needed(verify: Verify, left_out: int) -> None:
    ran = verify(*ALL[:left_out], *ALL[left_out + 2 :], "--json")
    assert (ran.code, json.loads(ran.out)["verdict"]) == (1, "incomplete")


def test_a_flag_takes_the_place_of_the_files_value(verify: Verify) -> None:
    ran = verify(*ALL, "--rtmr1", "ee" * 48, "--json")
    assert (ran.code, json.loads(ran.out)["verdict"]) == (1, "invalid")
    assert verify(*ALL, "--rtmr1", "ee" * 48, "--rtmr1", MADE.registers[1].hex()).code == 0


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--mrtd", "12"), "mrtd: expected 96 hexadecimal digits"),
        (("--accept-tcb", "Fine"), "expected one of UpToDate, SWHardeningNeeded"),
        (("--collateral", "@intel.json", "--pccs", "http://127.0.0.1:9"), "give one"),
        (("--expect", "@said.json"), "'quote' can't be expected"),
    ],
)
def test_what_can_not_be_meant_is_a_usage_error(
    verify: Verify, arguments: tuple[str, ...], problem: str
) -> None:
    ran = verify(*arguments)
    assert ran.code == 2
    assert problem in ran.err


def test_a_service_that_does_not_answer_is_to_be_asked_again(verify: Verify) -> None:
    ran = verify("--pccs", "http://127.0.0.1:9")
    assert ran.code == 75
    assert "the PCCS at 127.0.0.1:9 returned no collateral" in ran.err


def test_a_file_that_is_no_collateral_is_named(verify: Verify) -> None:
    ran = verify("--collateral", "@said.json")
    assert ran.code == 1
    assert "collateral: expected the JSON" in ran.err
