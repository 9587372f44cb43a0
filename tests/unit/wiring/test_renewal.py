"""What a node has for changing its key by its age, and what it lacks."""

from pathlib import Path

import pytest
from tests.unit.bridge.conftest import Bench

from dstack_vpn.adapters.keys.changer import CommandKeyChanger
from dstack_vpn.adapters.keys.keyring import FileKeyRing
from dstack_vpn.bridge.renewal import Renewal
from dstack_vpn.config import load
from dstack_vpn.errors import AdminError
from dstack_vpn.wiring import renewal as wiring

ACCOUNT = "0x" + "5f" * 32
OURS = {"NETWORK": "local", "WIREGUARD_PRIVATE_KEY": "generate", "KEY_MAX_AGE": "3600000"}


def renewal(folder: Path, **environment: str) -> Renewal | None:
    settings = load({}, {**OURS, "STATE_DIR": str(folder), **environment})
    return wiring.renewal_of(settings, Bench().build().chain, FileKeyRing(folder / "wireguard.key"))


def test_without_a_longest_age_there_is_none(tmp_path: Path) -> None:
    assert renewal(tmp_path, KEY_MAX_AGE="0") is None


def test_with_an_account_nothing_is_in_the_way(tmp_path: Path) -> None:
    made = renewal(tmp_path, CONTRACT_PRIVATE_KEY=ACCOUNT)
    assert made is not None
    assert made.changer.hindrance is None
    assert 0.9 * 3600 <= made.schedule.due <= 0.95 * 3600
    assert made.schedule.ready_at > made.chain.state.clock.monotonic(), "not in the moment of the start"


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = renewal(tmp_path)
    assert made is not None
    assert made.key.hindrance is not None
    assert "CONTRACT_PRIVATE_KEY_FILE" in made.key.hindrance
    monkeypatch.setattr(wiring, "find_spec", lambda name: None)
    made = renewal(tmp_path, CONTRACT_PRIVATE_KEY=ACCOUNT)
    assert made is not None
    assert made.key.hindrance is not None
    assert "pip install 'dstack-vpn[admin]'" in made.key.hindrance


async def test_what_the_process_says_is_rid_of_our_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "https://user:pass-word-1@rpc.example/v3/path-key-2?token=query-key-3"
    said = f"error: {ACCOUNT} and {url} are no good"
    made = renewal(tmp_path, CONTRACT_PRIVATE_KEY=ACCOUNT, RPC_URL=url)
    assert made is not None
    assert isinstance(made.changer, CommandKeyChanger)
    monkeypatch.setattr(made.changer, "_command", ("sh", "-c", 'echo "$0" >&2; exit 1', said))
    with pytest.raises(AdminError) as caught:
        await made.changer.change(1)
    for secret in (ACCOUNT[2:], "pass-word-1", "path-key-2", "query-key-3"):
        assert secret not in str(caught.value)
    assert str(caught.value).endswith(" are no good")
