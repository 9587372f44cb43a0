"""The example of an environment file has every variable, each with a valid value."""

from pathlib import Path

from dstack_vpn.config import OPTIONS, RELAY_OPTIONS, load

EXAMPLE = Path(__file__).parents[3] / ".env.example"

COMPOSE = {"DSTACK_VPN_IMAGE", "DSTACK_VPN_NET_IMAGE"}
"""Variables that only the production compose file reads."""


def variables() -> dict[str, str]:
    lines = EXAMPLE.read_text().splitlines()
    return dict(line[1:].split("=", 1) for line in lines if line.startswith("#") and line[1:2].isupper())


def test_every_setting_is_in_it_and_a_secret_only_as_a_file() -> None:
    wanted = {f"{o.name}_FILE" if o.secret else o.name for o in (*OPTIONS, *RELAY_OPTIONS)}
    assert variables().keys() - COMPOSE == wanted


def test_the_values_of_a_node_are_valid_together() -> None:
    names = {option.name for option in OPTIONS}
    settings = load({}, {name: value for name, value in variables().items() if name in names})
    assert settings.node_id is not None


def test_nothing_in_it_is_switched_on() -> None:
    assert all(not line or line.startswith("#") for line in EXAMPLE.read_text().splitlines())
