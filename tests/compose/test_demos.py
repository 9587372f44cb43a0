"""The demos run without errors."""

import urllib.request

import pytest
from scripts import compose_demo
from scripts.stack import Stack
from scripts.upgrade_demo import FILES_KEPT, FILES_PLAIN, build_next, upgrade


def test_the_compose_demo_comes_to_its_end(stack: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    compose_demo.story(stack)
    told = capsys.readouterr().out
    assert "peer.removed" in told and "peer.set" in told
    assert told.rstrip().endswith("All steps passed.")
    with urllib.request.urlopen(compose_demo.dashboard(stack), timeout=5) as page:
        assert b"<title>" in page.read()


def test_an_upgrade_with_a_long_lived_interface_loses_nothing() -> None:
    build_next()
    found = upgrade(FILES_KEPT, "kept")
    assert found["sent"] > 200
    assert found["lost"] == 0


def test_a_plain_upgrade_comes_back_by_itself() -> None:
    build_next()
    found = upgrade(FILES_PLAIN, "plain")
    assert 0 < found["lost"] < found["sent"]
    assert found["gap"] > 0.1, "datagrams came before and after it"
