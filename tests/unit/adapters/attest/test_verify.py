"""Verification of attestations. A valid one is consistent and has all needed comparisons."""

import contextlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.quotes import DAY, NOW, Authority, Made, boot, event

from dstack_vpn.adapters.attest import collateral
from dstack_vpn.adapters.attest.verify import CURRENT, GENUINE, Judgement, decode, verify
from dstack_vpn.core.attest.measurements import BY_NAME, Expected, Finding, Verdict
from dstack_vpn.core.attest.quote import report_data
from dstack_vpn.core.wireguard.keys import PublicKey
from dstack_vpn.errors import FormatError

KEY: Final = PublicKey(bytes(range(32)))
SAMPLE: Final = Path(__file__).parent / "sample"
AUTHORITY: Final = Authority()


def made(**more: Any) -> Made:
    return Made(report_data(KEY), **({"authority": AUTHORITY} | more))


def judgement(authority: Authority, **more: Any) -> Judgement:
    return Judgement(authority.parsed(), NOW.timestamp(), **({"root": authority.anchor} | more))


def find(
    it: Made,
    *,
    expected: dict[str, list[str]] | None = None,
    key: PublicKey | None = KEY,
    by: Judgement | None = None,
    quote: bytes | None = None,
) -> Finding:
    return verify(
        it.quote() if quote is None else quote,
        it.event_log,
        key,
        expected=Expected.parse(made().expected if expected is None else expected),
        by=judgement(it.authority) if by is None else by,
    )


def problems(finding: Finding) -> dict[str, str]:
    return {check.name: check.problem for check in finding.checks if check.problem}


def missing(finding: Finding) -> list[str]:
    return [gap.name for gap in finding.gaps if gap.needed]


@pytest.mark.parametrize("version", [4, 5])
def test_what_fits_together_and_was_compared_is_valid(version: int) -> None:
    finding = find(made(version=version))
    assert (problems(finding), missing(finding), finding.verdict) == ({}, [], Verdict.VALID)
    assert finding.measurements["compose-hash"] == "22" * 32
    assert {gap.name for gap in finding.gaps} >= {"app id", "instance id", "application (RTMR3)"}


# -- attacks ---------------------------------------------------------------------------------------

IDENTITY: Final = {
    "compose-hash": ["22" * 32],
    "app-id": ["11" * 20],
    "instance-id": ["33" * 20],
    "mrtd": ["d0" * 48],
    "os-image-hash": ["44" * 32],
}
"""Values that a foreign kernel can write freely, and the firmware's measurement."""


def test_another_kernel_is_never_valid_whatever_it_says_of_itself() -> None:
    foreign = made()
    foreign.events[1:3] = [boot(1, "ee" * 48), boot(2, "ee" * 48)]
    unseen = find(foreign, expected=IDENTITY)
    assert (problems(unseen), unseen.verdict) == ({}, Verdict.INCOMPLETE)
    assert "kernel (RTMR1)" in missing(unseen)
    assert "kernel command line and initrd (RTMR2)" in missing(unseen)
    seen = find(foreign, expected=made().expected | IDENTITY)
    assert seen.verdict is Verdict.INVALID
    assert {"kernel (RTMR1)", "kernel command line and initrd (RTMR2)"} == set(problems(seen))


def test_a_foreign_tdx_module_is_never_valid() -> None:
    foreign = made(mr_seam=b"\xee" * 48)
    assert "TDX module (MRSEAM)" in missing(find(foreign, expected=IDENTITY))
    assert list(problems(find(foreign))) == ["TDX module (MRSEAM)"]
    signed_by_others = find(made(mr_seam=b"\xee" * 48, mr_signer_seam=b"\7" * 48), expected=IDENTITY)
    assert "TDX module MRSIGNER mismatch" in problems(signed_by_others)[GENUINE]


def test_a_quoting_enclave_in_debug_mode_is_refused() -> None:
    assert "Debug mode is enabled" in problems(find(made(qe_debug=True)))[GENUINE]


def test_a_quoting_enclave_of_others_is_refused() -> None:
    it = made(authority=Authority(qe_signer=b"\1" * 32))
    assert "QE MRSIGNER mismatch" in problems(find(it))[GENUINE]


def test_a_machine_in_debug_mode_is_not_trusted_even_without_collateral() -> None:
    finding = find(made(debug=True), by=Judgement(None, NOW.timestamp()))
    assert list(problems(finding)) == ["the host can't read the machine's memory (debug)"]


@pytest.mark.parametrize("left_out", sorted(made().expected))
def test_without_any_one_of_the_needed_comparisons_nothing_is_valid(left_out: str) -> None:
    expected = made().expected
    del expected[left_out]
    finding = find(made(), expected=expected)
    assert finding.verdict is Verdict.INCOMPLETE
    assert missing(finding) == [BY_NAME[left_out].label]


def test_without_collateral_nothing_is_valid() -> None:
    finding = find(made(), by=Judgement(None, NOW.timestamp()))
    assert finding.verdict is Verdict.INCOMPLETE
    assert [name.split(":")[0] for name in missing(finding)] == [
        "the quote is genuine",
        "the platform's firmware is current (TCB level)",
    ]


def test_without_the_registrys_key_nothing_is_valid() -> None:
    finding = find(made(), key=None)
    assert (finding.verdict, missing(finding)) == (
        Verdict.INCOMPLETE,
        ["the public key: pass the one from the registry"],
    )


def test_rtmr3_does_in_place_of_the_compose_hash() -> None:
    expected = made().expected
    del expected["compose-hash"]
    expected["rtmr3"] = [made().registers[3].hex()]
    assert find(made(), expected=expected).valid


def test_one_of_several_values_is_enough() -> None:
    assert find(made(), expected=made().expected | {"mrseam": ["0x" + "AB" * 48, "5E" * 48]}).valid
    assert not find(made(), expected=made().expected | {"mrseam": ["ab" * 48, "cd" * 48]}).valid


# -- Intel's collateral ----------------------------------------------------------------------------


def test_a_platform_that_is_out_of_date_is_accepted_only_by_name() -> None:
    it = made(authority=Authority(level="OutOfDate"))
    finding = find(it)
    assert problems(finding) == {
        CURRENT: "Intel's level is OutOfDate, see INTEL-SA-00001; --accept-tcb OutOfDate accepts it"
    }
    assert find(it, by=judgement(it.authority, accepted=("UpToDate", "OutOfDate"))).valid


@pytest.mark.parametrize(
    ("authority", "problem"),
    [
        (Authority(revoked=True), "CertRevoked"),
        (Authority(level="Revoked"), "TCB status is invalid"),
        (Authority(is_authority=False), "certificate chain"),
        (Authority(not_after=NOW - DAY / 2), "CertExpired"),
    ],
)
def test_a_machine_that_intel_does_not_vouch_for_is_refused(authority: Authority, problem: str) -> None:
    assert problem in problems(find(made(authority=authority)))[GENUINE]


def test_collateral_of_another_root_or_another_day_proves_nothing() -> None:
    assert GENUINE in problems(find(made(), by=judgement(Authority())))
    assert GENUINE in problems(find(made(), by=judgement(AUTHORITY, root=None))), (
        "Intel's root is the default"
    )
    late = Judgement(AUTHORITY.parsed(), (NOW + 4000 * DAY).timestamp(), root=AUTHORITY.anchor)
    assert "expired" in problems(find(made(), by=late))[GENUINE].lower()
    forged = Judgement(AUTHORITY.parsed(), NOW.timestamp(), root=AUTHORITY.anchor)
    altered = json.loads(AUTHORITY.collateral())
    altered["tcb_info"] = altered["tcb_info"].replace("UpToDate", "OutOfDate")
    forged = Judgement(collateral.parse(json.dumps(altered)), NOW.timestamp(), root=AUTHORITY.anchor)
    assert "tcb_info" in problems(find(made(), by=forged))[GENUINE]


@pytest.mark.parametrize("at", [100, 700, 1100, 1300])
def test_every_signature_counts(at: int) -> None:
    it = made()
    quote = bytearray(it.quote())
    quote[at] ^= 1
    assert GENUINE in problems(find(it, quote=bytes(quote)))


def test_a_real_machines_quote_is_judged_by_intels_root() -> None:
    quote = (SAMPLE / "quote.bin").read_bytes()
    by = Judgement(
        collateral.parse((SAMPLE / "collateral.json").read_text()),
        datetime(2025, 6, 20, tzinfo=UTC).timestamp(),
    )
    finding = verify(quote, "[]", KEY, expected=Expected({}), by=by)
    assert set(problems(finding)) == {
        "the report data binds the public key",
        "the event log replays to the registers",
    }, "it is genuine and current, and not about a key of ours"
    later = Judgement(by.collateral, NOW.timestamp())
    assert "Expired" in problems(verify(quote, "[]", KEY, expected=Expected({}), by=later))[GENUINE]


# -- the key and the event log ---------------------------------------------------------------------


def test_the_quote_of_another_key_is_none_of_this_key() -> None:
    finding = find(made(), key=PublicKey(bytes(32 * [7])))
    assert list(problems(finding)) == ["the report data binds the public key"]


def test_an_event_log_that_does_not_replay_is_worth_nothing() -> None:
    it = made()
    quote = it.quote()
    it.events[4] = event("compose-hash", "55" * 32)
    finding = find(it, quote=quote, expected=made().expected | {"compose-hash": ["55" * 32]})
    assert "register 3" in problems(finding)["the event log replays to the registers"]
    assert problems(finding)["compose file"] == "it is not measured"


def test_a_payload_that_is_not_what_was_digested_is_found() -> None:
    it = made()
    it.events[4]["event_payload"] = "44" * 32
    assert "digest" in problems(find(it))["the event log replays to the registers"]


def test_other_measurements_than_expected_are_named() -> None:
    finding = find(made(), expected=made().expected | {"compose-hash": ["99" * 32], "app-id": ["11" * 20]})
    assert problems(finding) == {"compose file": f"it is {'22' * 32}"}


def test_two_events_of_a_name_measure_nothing() -> None:
    it = made()
    it.events.append(event("compose-hash", "55" * 32))
    assert problems(find(it))["compose file"] == "it is not measured"


@settings(max_examples=300)
@given(st.data())
def test_any_bytes_are_refused_or_found_wanting(data: st.DataObject) -> None:
    quote = bytearray(MADE)
    for _ in range(data.draw(st.integers(1, 4))):
        quote[data.draw(st.integers(0, len(quote) - 1))] ^= data.draw(st.integers(1, 255))
    cut = data.draw(st.integers(0, len(quote)))
    with contextlib.suppress(FormatError):
        verify(bytes(quote[:cut]), IT.event_log, KEY, expected=Expected({}), by=BY)


IT = made()
MADE = IT.quote()
BY = judgement(AUTHORITY)


ENTRY = {"imr": 3, "event_type": 1, "digest": "", "event": "x", "event_payload": ""}
ODD = [
    json.dumps([ENTRY | {"imr": float("inf")}]),
    json.dumps([ENTRY | {"event_type": float("-inf")}]),
    json.dumps([ENTRY | {"event": "\ud800"}]),
]


@pytest.mark.parametrize(
    "log", ["", "{}", "[1]", *ODD, '[{"imr": 9}]', "[" * 100_000, json.dumps([{}] * 10_001)]
)
def test_an_event_log_of_another_form_is_refused(log: str) -> None:
    finding = verify(MADE, log, KEY, expected=Expected({}), by=BY)
    assert "event log" in problems(finding)["the event log replays to the registers"]


@pytest.mark.parametrize("text", ["", "zz", "00" * 10, "0x" + "ff" * 700, "00" * ((1 << 20) + 1)])
def test_what_is_no_quote_is_refused(text: str) -> None:
    with pytest.raises(FormatError, match="quote"):
        verify(decode(text), "[]", KEY, expected=Expected({}), by=BY)


def test_a_quote_of_sgx_is_refused() -> None:
    quote = bytearray(MADE)
    quote[0:8] = bytes.fromhex("0300020000000000")
    with pytest.raises(FormatError, match="quote"):
        verify(bytes(quote), "[]", KEY, expected=Expected({}), by=BY)


@pytest.mark.parametrize(
    ("texts", "problem"),
    [
        ({"mrtd": ["00"]}, "mrtd: expected 96"),
        ({"app-id": ["zz" * 20]}, "app-id: expected 40"),
        ({"rtmr9": ["00" * 48]}, "can't be expected"),
    ],
)
def test_an_expectation_that_nothing_could_meet_is_refused(texts: dict[str, list[str]], problem: str) -> None:
    with pytest.raises(FormatError, match=problem):
        Expected.parse(texts)
