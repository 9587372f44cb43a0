"""A relay's settings from flags, the environment and files, and the errors for wrong values."""

from pathlib import Path

import pytest

from dstack_vpn.config import TCP2UDP, UDP2TCP, load_relay
from dstack_vpn.core.model import SocketAddress
from dstack_vpn.core.paths.relay_url import Listen
from dstack_vpn.errors import ConfigError

PIN = "sha256:" + "ab" * 32
UP = {"RELAY_MODE": UDP2TCP, "PROXY_PORT": "1"}
DOWN = {"RELAY_MODE": TCP2UDP, "PROXY_PORT": "1"}


def problems(**environment: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load_relay({}, environment)
    return caught.value.problems


def test_the_environment_alone_is_enough_for_a_container() -> None:
    settings = load_relay({}, {"RELAY_MODE": TCP2UDP, "PROXY_PORT": "443", "RELAY_TO": "wireguard:51820"})
    assert settings.listen == Listen.parse("tcp://0.0.0.0:443")
    assert settings.target == ("wireguard", 51820)
    assert settings.upstreams == ()


def test_udp2tcp_has_upstreams_in_their_order() -> None:
    to = f"tls://vpn.example.org:443?pin={PIN},{PIN},tcp://[2001:db8::1]:444"
    settings = load_relay({"relay_mode": UDP2TCP, "relay_listen": "[::1]:51821", "relay_to": to}, {})
    assert settings.listen == SocketAddress("::1", 51821)
    assert [upstream.name for upstream in settings.upstreams] == [
        "tls://vpn.example.org:443",
        "tcp://[2001:db8::1]:444",
    ]


def test_a_file_for_upstreams_keeps_a_proxys_password_off_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "to"
    path.write_text("tcp://vpn.example.org:443?via=http://user:secret@proxy:3128\n")
    path.chmod(0o600)
    environment = {"RELAY_MODE": UDP2TCP, "PROXY_PORT": "51821", "RELAY_TO_FILE": str(path)}
    settings = load_relay({}, environment)
    assert settings.upstreams[0].via == "http://user:secret@proxy:3128"
    assert "secret" not in repr(settings)
    assert "secret" not in str(settings.upstreams[0])


def test_a_node_and_a_relay_may_share_a_file(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text('node_id = "a"\nrelay_mode = "tcp2udp"\nrelay_to = "127.0.0.1:51820"\nproxy_port = 443\n')
    path.chmod(0o600)
    assert load_relay({}, {}, path).mode == TCP2UDP


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({}, "RELAY_MODE: is not set"),
        ({"RELAY_MODE": "both"}, "RELAY_MODE"),
        ({"RELAY_MODE": UDP2TCP, "RELAY_TO": "tcp://a:1"}, "RELAY_LISTEN: is not set, and neither"),
        ({"RELAY_MODE": UDP2TCP, "PROXY_PORT": "1"}, "RELAY_TO: is not set"),
        ({"RELAY_MODE": UDP2TCP, "PROXY_PORT": "0"}, "PROXY_PORT"),
        (UP | {"RELAY_TO": "a:1"}, "RELAY_TO: entry 1: relay URL: expected tcp"),
        (UP | {"RELAY_TO": "tcp://a:1,udp://b:1"}, "RELAY_TO: entry 2"),
        (UP | {"RELAY_TO": "tcp://a"}, "port"),
        (UP | {"RELAY_TO": "tls://a:1?pin=x"}, "pin: expected sha256:"),
        (UP | {"RELAY_TO": "tls://a:1?ca=x"}, "ca: expected an absolute path"),
        (UP | {"RELAY_TO": "tls://a:1?x=y"}, "'x' is not an option"),
        (UP | {"RELAY_TO": "tcp://a:1?sni=b.c"}, "sni has a meaning with tls"),
        (UP | {"RELAY_LISTEN": "tcp://0.0.0.0:1", "RELAY_TO": "tcp://a:1"}, "RELAY_LISTEN: udp2tcp"),
        ({"RELAY_MODE": TCP2UDP, "RELAY_LISTEN": "0.0.0.0:1", "RELAY_TO": "a:1"}, "RELAY_LISTEN: relay URL"),
        (DOWN | {"RELAY_LISTEN": "tls://0.0.0.0:1?key=/k", "RELAY_TO": "a:1"}, "key without a cert"),
        (DOWN | {"RELAY_TO": "tcp://a:1"}, "RELAY_TO:"),
        (DOWN | {"RELAY_TO": "a:1", "FWMARK": "x"}, "FWMARK"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_an_example(environment: dict[str, str], said: str) -> None:
    found = problems(**environment)
    assert any(said in problem for problem in found)
    assert all("Example" in problem for problem in found)


def test_a_wrong_proxy_does_not_show_its_password() -> None:
    to = "tcp://a:1?via=ftp://user:secret@proxy:1"
    (problem,) = problems(RELAY_MODE=UDP2TCP, PROXY_PORT="1", RELAY_TO=to)
    assert "via" in problem
    assert "secret" not in problem


def test_every_problem_is_told_at_once() -> None:
    environment = {"RELAY_MODE": UDP2TCP, "RELAY_LISTEN": "x", "RELAY_TO": "tcp://a,tls://b:1?pin=x"}
    assert len(problems(**environment)) == 3
