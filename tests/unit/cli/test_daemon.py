from tests.unit.cli.conftest import Cli


def test_run_needs_a_key(cli: Cli) -> None:
    ran = cli("run")
    assert ran.code == 78
    assert "WIREGUARD_PRIVATE_KEY (or WIREGUARD_PRIVATE_KEY_FILE): is not set" in ran.err
