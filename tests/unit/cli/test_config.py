import json
from pathlib import Path

from tests.unit.cli.conftest import Cli


def test_config_without_any_history(cli: Cli, tmp_path: Path) -> None:
    where = {"STATE_DIR": str(tmp_path), "WIREGUARD_CONFIG": str(tmp_path / "wg0.conf")}
    assert json.loads(cli("config", "list", "--json", **where).out) == {"pinned": False, "backups": []}
    assert "No backup was pinned" in cli("config", "resume", **where).out
    for arguments in (
        ["show"],
        ["show", "nope"],
        ["diff", "nope"],
        ["rollback", "nope"],
        ["rollback", "../x"],
    ):
        ran = cli("config", *arguments, **where)
        assert ran.code == 1
        assert ran.err.startswith("error: ")


def test_config_show_hides_the_key(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "wg0.conf"
    file.write_text("[Interface]\nPrivateKey = c2VjcmV0\n")
    ran = cli("config", "show", STATE_DIR=str(tmp_path), WIREGUARD_CONFIG=str(file))
    assert ran.code == 0
    assert "c2VjcmV0" not in ran.out and "(hidden)" in ran.out
