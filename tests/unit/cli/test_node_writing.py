import pytest
from tests.unit.cli.conftest import Cli

KEY = "B" * 42 + "A="


@pytest.mark.parametrize(
    "arguments",
    [
        ("set-endpoint", "web", "10.77.0.2:51820"),
        (
            "register",
            "web",
            "--to",
            "0x" + "1" * 40,
            "--public-key",
            KEY,
            "--endpoint",
            "10.77.9.9:1",
        ),
    ],
)
def test_an_endpoint_within_the_vpn_is_not_sent(cli: Cli, arguments: tuple[str, ...]) -> None:
    ran = cli("node", *arguments, CONTRACT_PRIVATE_KEY="1" * 64)
    assert ran.code == 2
    assert "an address of the VPN itself leads back into the tunnel" in ran.err
