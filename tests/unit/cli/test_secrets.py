"""No command takes a secret as an argument."""

from collections.abc import Iterator

import click
import pytest
from tests.unit.cli.conftest import Cli

from dstack_vpn.cli import main
from dstack_vpn.config import OPTIONS, RELAY_OPTIONS


def commands(group: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    """Yield every command with its path."""
    yield " ".join(path), group
    if isinstance(group, click.Group):
        with click.Context(group) as context:
            for name in group.list_commands(context):
                found = group.get_command(context, name)
                assert found is not None
                yield from commands(found, (*path, name))


COMMANDS = dict(commands(main))
SECRETS = {option.key for option in (*OPTIONS, *RELAY_OPTIONS) if option.secret}


@pytest.mark.parametrize("path", COMMANDS)
def test_no_secret_has_a_flag(path: str) -> None:
    parameters = {parameter.name for parameter in COMMANDS[path].params}
    # The flag for relay URLs refuses URLs with a password.
    assert parameters & SECRETS <= {"relay_to"}


@pytest.mark.parametrize(
    "via",
    [
        "http://user:hush@192.0.2.1:3128",
        "socks5://hush@192.0.2.1:1080",
        "http%3A%2F%2Fu%3Ahush%40192.0.2.1%3A1",
    ],
)
def test_a_proxys_password_is_refused_as_an_argument(cli: Cli, via: str) -> None:
    urls = f"tcp://192.0.2.7:443,tcp://192.0.2.8:443?via={via}"
    ran = cli("relay", "udp2tcp", "--listen", "127.0.0.1:0", "--to", urls)
    assert ran.code == 2
    assert "RELAY_TO_FILE" in ran.err
    assert "hush" not in ran.err
