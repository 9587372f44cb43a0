from tests.unit.cli.conftest import Cli

from dstack_vpn import __version__


def test_version(cli: Cli) -> None:
    assert cli("version").out == f"dstack-vpn {__version__}\n"


def test_the_version_is_a_flag_too(cli: Cli) -> None:
    assert cli("--version") == cli("version")
