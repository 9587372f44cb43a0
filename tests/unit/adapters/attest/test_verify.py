"""An attestation is believed when all of it fits together, and one thing that does not is named."""

import base64
import contextlib
import json
import ssl
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.quotes import NOW, Authority, Made, event

from dstack_vpn.adapters.attest.verify import INTEL_ROOT, UNCHECKED, Expected, Finding, verify
from dstack_vpn.core.attestation import report_data
from dstack_vpn.core.keys import PublicKey
from dstack_vpn.core.tdx import Quote
from dstack_vpn.errors import FormatError

KEY = PublicKey(bytes(range(32)))
ANY = Expected()


def made(**more: Any) -> Made:
    return Made(report_data(KEY), **more)


def find(it: Made, *, key: PublicKey = KEY, expected: Expected = ANY, quote: bytes | None = None) -> Finding:
    data = it.quote() if quote is None else quote
    return verify(data.hex(), it.event_log, key, expected=expected, now=NOW, root=it.authority.anchor)


def problems(finding: Finding) -> dict[str, str]:
    return {check.name: check.problem for check in finding.checks if check.problem}


@pytest.mark.parametrize("version", [4, 5])
def test_what_fits_together_is_valid_and_says_what_was_measured(version: int) -> None:
    wanted = Expected("22" * 32, "11" * 20, "33" * 20, "d0" * 48)
    finding = find(made(version=version), expected=wanted)
    assert problems(finding) == {}
    assert finding.valid
    assert finding.measurements["compose-hash"] == "22" * 32
    assert finding.measurements["firmware (MRTD)"] == "d0" * 48


def test_the_anchor_is_intels_unless_a_test_says_otherwise() -> None:
    finding = verify(made().quote().hex(), made().event_log, KEY, expected=ANY, now=NOW)
    assert "Intel's root" in problems(finding)["Intel's root certifies the processor"]
    assert len(INTEL_ROOT) == 65
    assert any("revoked" in what for what in UNCHECKED)


def test_the_quote_of_another_key_is_none_of_this_key() -> None:
    finding = find(made(), key=PublicKey(bytes(32 * [7])))
    assert list(problems(finding)) == ["the report data binds the public key"]


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda it, q: q[:48] + b"\1" + q[49:], "the quote is signed by its attestation key"),
        (lambda it, q: q.replace(b"auth", b"AUTH", 1), "the quoting enclave's report binds that key"),
        (
            lambda it, q: q.replace(signed_report(it, q), bytes(31) + b"\1" + bytes(31) + b"\1"),
            "the processor's certificate signs that report",
        ),
    ],
)
def test_every_signature_counts(change: Callable[[Made, bytes], bytes], name: str) -> None:
    it = made()
    finding = find(it, quote=change(it, it.quote()))
    assert name in problems(finding)
    assert not finding.valid


def signed_report(it: Made, quote: bytes) -> bytes:
    return Quote.parse(quote).qe_signature


def test_a_chain_that_has_run_out_is_not_valid() -> None:
    finding = find(made(authority=Authority(not_after=NOW - timedelta(hours=1))))
    assert problems(finding) == {"Intel's root certifies the processor": "a certificate is not valid now"}


def test_who_is_no_authority_certifies_nothing() -> None:
    finding = find(made(authority=Authority(is_authority=False)))
    assert "no authority" in problems(finding)["Intel's root certifies the processor"]


def test_a_machine_in_debug_mode_is_not_trusted() -> None:
    assert list(problems(find(made(debug=True)))) == ["the host can't look into the machine"]


def test_an_event_log_that_does_not_replay_is_worth_nothing() -> None:
    it = made()
    quote = it.quote()
    it.events[1] = event("compose-hash", "44" * 32)
    finding = find(it, quote=quote, expected=Expected(compose_hash="44" * 32))
    assert "register 3" in problems(finding)["the event log replays to the registers"]
    assert problems(finding)["the compose hash is as expected"] == "it is not measured"


def test_a_payload_that_is_not_what_was_digested_is_found() -> None:
    it = made()
    it.events[1]["event_payload"] = "44" * 32
    assert "digest" in problems(find(it))["the event log replays to the registers"]


def test_other_measurements_than_expected_are_named() -> None:
    finding = find(made(), expected=Expected(compose_hash="99" * 32, app_id="11" * 20))
    assert problems(finding) == {"the compose hash is as expected": f"it is {'22' * 32}"}


def test_two_events_of_a_name_measure_nothing() -> None:
    it = made()
    it.events.append(event("compose-hash", "55" * 32))
    finding = find(it, expected=Expected(compose_hash="22" * 32))
    assert problems(finding)["the compose hash is as expected"] == "it is not measured"


PUBLIC_KEY, P256 = bytes.fromhex("06072a8648ce3d0201"), bytes.fromhex("06082a8648ce3d030107")


@pytest.mark.parametrize(
    ("part", "other"),
    [
        (b"\xa0\x03\x02\x01\x02\x02", b"\xa0\x03\x02\x01\x14\x02"),  # a version that there is not
        (PUBLIC_KEY, PUBLIC_KEY[:-1] + b"\x07"),  # a key of an unknown kind
        (P256, P256[:-1] + b"\x70"),  # on an unknown curve
        (P256 + b"\x03\x42\x00\x04", P256 + b"\x03\x42\x00\x05"),  # in an unknown form
        (b"\x30\x0c\x06\x03\x55\x1d\x13", b"\x30\x0c\x06\x03\x55\x1d\x11"),  # names where there are none
        (b"\x17\x0d2611", b"\x17\x0d2699"),  # a date that is none
    ],
)
def test_a_certificate_that_no_library_reads_is_a_problem_and_no_error(part: bytes, other: bytes) -> None:
    it = made()
    quote = it.quote()
    chain = Quote.parse(quote).certificates
    pems = [pem for pem in chain.split(b"-----") if len(pem) > 100]
    ders = [base64.b64decode(pem) for pem in pems]
    assert any(part in der for der in ders)
    for pem, der in zip(pems, ders, strict=True):
        lines = base64.b64encode(der.replace(part, other)).decode()
        altered = "\n".join(["", *(lines[i : i + 64] for i in range(0, len(lines), 64)), ""]).encode()
        assert len(altered) == len(pem)
        quote = quote.replace(pem, altered)
    finding = find(it, quote=quote)
    assert "Intel's root certifies the processor" in problems(finding)


def test_a_serial_number_that_is_not_positive_is_refused_like_another_fault() -> None:
    it = made()
    quote = it.quote()
    for number in x509.load_pem_x509_certificates(Quote.parse(quote).certificates):
        digits = number.serial_number.to_bytes(20, "big")
        der = number.public_bytes(serialization.Encoding.DER)
        bad = x509_pem(der.replace(digits, b"\x80" + digits[1:]))
        quote = quote.replace(number.public_bytes(serialization.Encoding.PEM), bad)
    assert "read" in problems(find(it, quote=quote))["Intel's root certifies the processor"]


def x509_pem(der: bytes) -> bytes:
    return ssl.DER_cert_to_PEM_cert(der).encode()


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_bytes_are_refused_or_found_wanting(data: st.DataObject) -> None:
    quote = bytearray(MADE)
    for _ in range(data.draw(st.integers(1, 4))):
        quote[data.draw(st.integers(0, len(quote) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(quote)))
    with contextlib.suppress(FormatError):
        verify(bytes(quote[:cut]).hex(), IT.event_log, KEY, expected=ANY, now=NOW, root=IT.authority.anchor)


IT = made()
MADE = IT.quote()


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
    finding = verify(MADE.hex(), log, KEY, expected=ANY, now=NOW, root=IT.authority.anchor)
    assert "event log" in problems(finding)["the event log replays to the registers"]


@pytest.mark.parametrize("text", ["", "zz", "00" * 10, "0x" + "ff" * 700])
def test_what_is_no_quote_is_refused(text: str) -> None:
    with pytest.raises(FormatError, match="quote"):
        verify(text, "[]", KEY, expected=ANY, now=NOW)
