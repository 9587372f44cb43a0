"""The settings and the environment that the child process for key rotation gets."""

import base64
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstack_vpn.config import Secret, child, load
from dstack_vpn.errors import ConfigError

ACCOUNT = "0x" + "5f" * 32
OURS = {
    "NETWORK": "local",
    "RPC_URL": 'wss://one.example/key?a="b"\\c,http://two.example:8545',
    "START_BLOCK": "17",
    "WIREGUARD_PRIVATE_KEY": "generate",
    "CONTRACT_PRIVATE_KEY": ACCOUNT,
    "KEY_MAX_AGE": "7776000000",
}


def test_it_reads_back_as_what_it_was(tmp_path: Path) -> None:
    ours = load({}, OURS | {"STATE_DIR": str(tmp_path)})
    file = tmp_path / "child.toml"
    file.write_text(child.document(ours))
    theirs = load({}, {}, file)
    for name in (
        "network",
        "rpc_url",
        "chain_id",
        "contract_address",
        "start_block",
        "state_dir",
        "key_file",
    ):
        assert getattr(theirs, name) == getattr(ours, name), name
    assert isinstance(theirs.contract_private_key, Secret)
    assert theirs.contract_private_key.reveal() == ACCOUNT
    assert theirs.exposed == ()


@given(st.text(st.characters(codec="utf-8"), max_size=30))
def test_any_text_of_a_url_stays_one_value(text: str) -> None:
    import tomllib

    path = text.replace(",", "").strip()
    ours = load({}, OURS | {"RPC_URL": f"http://one.example/{path}"})
    assert tomllib.loads(child.document(ours))["rpc_url"] == ",".join(ours.rpc_url)


def test_of_the_environment_little_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONTRACT_PRIVATE_KEY", ACCOUNT)
    monkeypatch.setenv("RPC_URL", "wss://one.example/key")
    monkeypatch.setenv("SSL_CERT_FILE", "/etc/ours.pem")
    monkeypatch.setenv("LD_PRELOAD", "/tmp/evil.so")
    found = child.environment()
    assert found["SSL_CERT_FILE"] == "/etc/ours.pem"
    assert found.keys() <= set(child.PASSED)


def problems(**environment: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load({}, environment)
    return caught.value.problems


KEY = base64.b64encode(bytes(range(1, 33))).decode()


@pytest.mark.parametrize("key", [KEY, "dstack"])
def test_a_key_that_is_not_ours_can_have_no_longest_age(key: str) -> None:
    (problem,) = problems(WIREGUARD_PRIVATE_KEY=key, KEY_MAX_AGE="7776000000")
    assert problem.startswith("KEY_MAX_AGE: the daemon can rotate only a key")
    assert "node update-key" in problem
    assert problem.endswith("Example: KEY_MAX_AGE=0")
    assert load({}, {"WIREGUARD_PRIVATE_KEY": key, "KEY_MAX_AGE": "0"}).key_max_age == 0


def test_nor_one_from_a_file_nor_in_a_contract_without_changes(tmp_path: Path) -> None:
    file = tmp_path / "wg.key"
    file.write_text(KEY)
    file.chmod(0o600)
    found = problems(
        WIREGUARD_PRIVATE_KEY="generate",
        WIREGUARD_PRIVATE_KEY_FILE=str(file),
        KEY_MAX_AGE="7776000000",
        CONTRACT_ABI="dstack-access-nft",
        MTU="1",
    )
    assert len(found) == 3, "all at once"
    assert sum(problem.startswith("KEY_MAX_AGE: ") for problem in found) == 2


@pytest.mark.parametrize("text", ["1", "3599999", "-1", "59m", "315360000001", ""])
def test_a_longest_age_is_an_hour_at_least(text: str) -> None:
    if not text:
        assert load({}, {"KEY_MAX_AGE": text}).key_max_age == 0
        return
    (problem,) = problems(KEY_MAX_AGE=text)
    assert problem.startswith("KEY_MAX_AGE: expected a time from 1h to 3650d, with ms, s, m, h or d, or 0.")


def test_it_is_in_milliseconds_and_no_business_of_commands_without_a_key() -> None:
    assert load({}, {"KEY_MAX_AGE": "3600000"}).key_max_age == 3600
