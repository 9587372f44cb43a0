"""The relay's commands: the arguments that they refuse."""

import pytest
from tests.unit.cli.conftest import Cli

GOOD = ("--listen", "127.0.0.1:0", "--to", "tcp://192.0.2.1:443")


def test_help_tells_both_ways_round(cli: Cli) -> None:
    ran = cli("relay", "--help")
    assert ran.code == 0
    assert "udp2tcp" in ran.out
    assert "tcp2udp" in ran.out


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("relay", "sideways"), 2, "No such command"),
        (("relay", "udp2tcp", "--nonsense"), 2, "No such option"),
        (("relay",), 78, "RELAY_MODE"),
        (("relay", "udp2tcp"), 78, "RELAY_LISTEN"),
        (("relay", "udp2tcp", "--listen", "127.0.0.1:0", "--to", "tcp://a"), 78, "RELAY_TO: entry 1"),
        (("relay", "udp2tcp", *GOOD, "--max-connections", "0"), 78, "RELAY_MAX_CONNECTIONS"),
        (("relay", "tcp2udp", "--listen", "tls://0.0.0.0:0?cert=/no.pem", "--to", "a:1"), 1, "cert: /no.pem"),
        (("relay", "udp2tcp", "--listen", "192.0.2.7:1", "--to", "tcp://a:1"), 1, "192.0.2.7"),
    ],
)  # fmt: skip
def test_what_is_wrong_ends_the_command_with_a_reason_and_a_code(
    cli: Cli, arguments: tuple[str, ...], code: int, said: str
) -> None:
    ran = cli(*arguments)
    assert ran.code == code
    assert said in ran.err
    assert "Traceback" not in ran.err
