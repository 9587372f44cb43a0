"""The output of transactions that are not sent."""

import json

import pytest

from dstack_vpn.cli.withheld import show
from dstack_vpn.core.chain.unsent import Mode, Unsent

TO, SENDER = "0x" + "c0" * 20, "0x" + "aa" * 20
CALL = Unsent(31337, TO, b"\x01\x02", SENDER, 50_000, 10**15)


def test_one_transaction_is_a_document(capsys: pytest.CaptureFixture[str]) -> None:
    show([CALL], Mode.CALLDATA, as_json=True)
    assert json.loads(capsys.readouterr().out) == {
        "chain_id": 31337,
        "to": TO,
        "value": "0",
        "data": "0x0102",
    }
    show([CALL], Mode.DRY_RUN, as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert (found["from"], found["gas"], found["max_fee_wei"]) == (SENDER, 50_000, 10**15)


def test_a_document_can_have_more_facts(capsys: pytest.CaptureFixture[str]) -> None:
    show([CALL], Mode.CALLDATA, as_json=True, facts={"grants": 3, "to": "overwritten"})
    found = json.loads(capsys.readouterr().out)
    assert (found["grants"], found["to"]) == (3, TO)
    show([CALL, CALL], Mode.CALLDATA, as_json=True, facts={"grants": 3})
    found = json.loads(capsys.readouterr().out)
    assert (found["grants"], len(found["transactions"])) == (3, 2)


def test_several_transactions_are_a_list(capsys: pytest.CaptureFixture[str]) -> None:
    show([CALL, Unsent(1, None, b"")], Mode.CALLDATA, as_json=True)
    found = json.loads(capsys.readouterr().out)["transactions"]
    assert [each["to"] for each in found] == [TO, None]
    show([CALL, Unsent(1, None, b"")], Mode.CALLDATA, as_json=False)
    out, err = capsys.readouterr()
    assert "transaction 1 of 2" in out and "(creates a contract)" in out
    assert err == "Nothing was sent.\n"


def test_the_fee_is_in_wei_and_in_ether_and_a_dry_run_hides_the_data(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show([CALL], Mode.DRY_RUN, as_json=False)
    out = capsys.readouterr().out
    assert "max fee wei  1000000000000000 (0.001000000 ETH)" in out
    assert "0x0102" not in out
