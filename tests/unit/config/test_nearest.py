"""Suggestions for misspelled names of settings."""

from collections.abc import Callable
from pathlib import Path

import pytest

from dstack_vpn.config import load
from dstack_vpn.errors import ConfigError

Write = Callable[[str, str, int], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def put(name: str, text: str, mode: int = 0o600) -> Path:
        path = tmp_path / name
        path.write_text(text)
        path.chmod(mode)
        return path

    return put


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("NETWROK", "NETWORK"),
        ("RPC_URLS", "RPC_URL"),
        ("API_TOKEN_FIEL", "API_TOKEN_FILE"),
        ("STATEDIR", "STATE_DIR"),
    ],
)
def test_a_variable_that_is_nearly_a_setting_is_known(name: str, near: str) -> None:
    assert load({}, {name: "local"}).unknown == (f"{name} (did you mean {near}?)",)


@pytest.mark.parametrize(
    "name", ["PATH", "HOME", "LANG", "MTA", "NETWORK_MODE", "LOG_LEVEL_CHAIN", "CONFIG_FILE_2X"]
)
def test_other_variables_are_passed_over(name: str) -> None:
    assert load({}, {name: "debug"}).unknown == ()


def test_a_setting_that_is_set_has_no_twin(write: Write) -> None:
    assert load({}, {"NODE_ID": "web-1", "NODE_IP": "192.0.2.1"}).unknown == ()


def test_a_mistyped_key_of_the_file_names_the_right_one(write: Write) -> None:
    with pytest.raises(ConfigError, match="sets 'netwrok', which is not a setting: did you mean 'network'"):
        load({}, {}, write("c.toml", 'netwrok = "local"', 0o644))
