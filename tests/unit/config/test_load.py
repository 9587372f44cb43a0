"""Settings: precedence, complete reports of problems, and secrets that do not leak."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstack_vpn.adapters import keyfile
from dstack_vpn.config import OPTIONS, Settings, load
from dstack_vpn.config.parsers import interface
from dstack_vpn.core.access.staleness import StalePolicy
from dstack_vpn.core.wireguard.keys import PrivateKey, PublicKey
from dstack_vpn.core.wireguard.x25519 import derive
from dstack_vpn.errors import ConfigError, FormatError

OTHER_KEY = "AwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwM="
KEY = "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI="
PUBLIC, OTHER_PUBLIC = (derive(PrivateKey.parse(text)) for text in (KEY, OTHER_KEY))
Write = Callable[[str, str, int], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def put(name: str, text: str, mode: int = 0o600) -> Path:
        path = tmp_path / name
        path.write_text(text)
        path.chmod(mode)
        return path

    return put


def public(settings: Settings) -> PublicKey:
    assert settings.wireguard_private_key is not None
    return derive(settings.wireguard_private_key)


def problems(environment: dict[str, str], **rest: Any) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load({}, environment, **rest)
    return caught.value.problems


def test_the_file_of_a_policy_is_a_path_that_may_not_exist() -> None:
    assert load({}, {}).policy_file is None
    assert load({}, {"POLICY_FILE": "/etc/policy.json"}).policy_file == Path("/etc/policy.json")
    (problem,) = problems({"POLICY_FILE": "policy.json"})
    assert problem.startswith("POLICY_FILE: expected an absolute path")


def test_defaults_are_those_of_base() -> None:
    settings = load({}, {})
    assert settings.chain_id == 8453
    assert settings.contract_address == "0x37d2106badb01dd5be1926e45d172cb4203c4186"
    assert settings.sync_interval == 30
    assert str(settings.wireguard_config) == "/etc/wireguard/wg0.conf"


def test_flags_win_over_the_environment_and_that_over_the_file(write: Write) -> None:
    file = write("c.toml", 'node_id = "file"\ninterface = "wgfile"\nmtu = 1300', 0o644)
    settings = load({"node_id": "flag"}, {"NODE_ID": "env", "INTERFACE": "wgenv"}, file)
    assert (settings.node_id, settings.interface, settings.mtu) == ("flag", "wgenv", 1300)


def test_what_another_daemon_has_comes_last_and_a_key_from_one_place_only(write: Write) -> None:
    ours, theirs = write("ours", KEY, 0o600), write("theirs", OTHER_KEY, 0o600)
    last = {"NODE_ID": "theirs", "MTU": "1300", "WIREGUARD_PRIVATE_KEY_FILE": str(theirs)}
    settings = load({}, {"NODE_ID": "ours", "WIREGUARD_PRIVATE_KEY_FILE": str(ours)}, last=last)
    assert (settings.node_id, settings.mtu) == ("ours", 1300)
    assert public(settings) == PUBLIC
    assert public(load({}, {}, last=last)) == OTHER_PUBLIC
    assert public(load({}, {"WIREGUARD_PRIVATE_KEY": KEY}, last=last)) == PUBLIC


def test_the_texts_of_settings_have_no_secret_but_its_file(write: Write) -> None:
    path = str(write("key", KEY, 0o600))
    token = "0123456789abcdef-a-token"
    settings = load({}, {"MTU": "1300", "WIREGUARD_PRIVATE_KEY_FILE": path, "API_TOKEN": token})
    assert settings.texts == {"MTU": "1300", "WIREGUARD_PRIVATE_KEY_FILE": path}
    assert load({}, {}, last=settings.texts).mtu == 1300
    assert load({}, {"WIREGUARD_PRIVATE_KEY": "generate"}).texts == {"WIREGUARD_PRIVATE_KEY": "generate"}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30000", 30),
        ("30s", 30),
        ("1500ms", 1.5),
        ("2m", 120),
        ("2min", 120),
        ("1h", 3600),
        ("1d", 86_400),
        ("5 s", 5),
    ],
)
def test_a_time_has_a_unit_or_is_in_milliseconds(text: str, seconds: float) -> None:
    assert load({}, {"SYNC_INTERVAL": text, "MAX_STALENESS": "30d"}).sync_interval == seconds


@pytest.mark.parametrize(
    "text", ["30S", "s", "1w", "-1s", "1.5h", "1h30m", "٣s", "999999999999999999s", "500"]
)
def test_a_time_that_is_none_is_refused(text: str) -> None:
    (problem,) = problems({"SYNC_INTERVAL": text})
    assert problem.startswith("SYNC_INTERVAL: expected a time from 1s to 1d, with ms, s, m, h or d. Example")


def test_a_keepalive_is_in_seconds() -> None:
    assert load({}, {"PERSISTENT_KEEPALIVE": "25"}).persistent_keepalive == 25
    assert load({}, {"PERSISTENT_KEEPALIVE": "25s"}).persistent_keepalive == 25
    assert problems({"PERSISTENT_KEEPALIVE": "1500ms"})


def test_a_file_may_hold_lists_and_tables(write: Write) -> None:
    text = 'rpc_url = ["ws://a.example", "http://b.example"]\n[peer_endpoints]\ndb = "192.0.2.1:1"'
    settings = load({}, {"CONFIG_FILE": str(write("c.toml", text, 0o644))})
    assert settings.rpc_url == ("ws://a.example", "http://b.example")
    assert str(settings.peer_endpoints["db"]) == "192.0.2.1:1"


def test_every_problem_is_reported_at_once_with_its_variable_and_an_example() -> None:
    found = problems(
        {
            "NODE_ID": "a b",
            "VPN_CIDR": "8.8.8.0/24",
            "LISTEN_PORT": "0",
            "LOG_LEVEL_CHAIN": "loud",
            "PEER_ENDPOINTS": "db=localhost:1",
            "PEER_ENDPOINT_TEMPLATE": "host:1",
            "CONTRACT_ADDRESS": "0x1",
        },
        need=frozenset({"WIREGUARD_PRIVATE_KEY"}),
    )
    names = ["NODE_ID", "CONTRACT_ADDRESS", "VPN_CIDR", "LISTEN_PORT", "PEER_ENDPOINTS"]
    names += ["PEER_ENDPOINT_TEMPLATE", "WIREGUARD_PRIVATE_KEY", "LOG_LEVEL_CHAIN"]
    assert [next(n for n in sorted(names, key=len, reverse=True) if p.startswith(n)) for p in found] == names
    assert all("Example: " in problem for problem in found)


def test_a_network_without_a_contract_asks_for_one() -> None:
    assert "CONTRACT_ADDRESS is not set" in problems({"NETWORK": "base-sepolia"})[0]


def test_secrets_come_from_files_that_only_their_owner_can_read(write: Write) -> None:
    settings = load({}, {"WIREGUARD_PRIVATE_KEY_FILE": str(write("key", KEY + "\n", 0o600))})
    assert settings.wireguard_private_key is not None
    for mode in (0o644, 0o640, 0o604):
        (problem,) = problems({"WIREGUARD_PRIVATE_KEY_FILE": str(write("open", KEY, mode))})
        assert "can be read by others" in problem
        assert "chmod 0600" in problem


def test_a_secret_of_another_user_names_both_users(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container: the admin image's user 65532 reads a file that the host's root owns."""
    path = write("key", KEY, 0o600)

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    monkeypatch.setattr(os, "geteuid", lambda: 65532)
    (problem,) = problems({"WIREGUARD_PRIVATE_KEY_FILE": str(path)})
    owner = path.stat().st_uid
    assert f"Permission denied: it belongs to user {owner}, and this process to user 65532" in problem


@pytest.mark.parametrize("text", ["", "x" * 5000, "not a key", KEY + KEY])
def test_a_bad_secret_is_never_quoted(write: Write, text: str) -> None:
    (problem,) = problems({"WIREGUARD_PRIVATE_KEY_FILE": str(write("key", text, 0o600))})
    assert not text or text not in problem


def test_two_places_for_one_secret_are_one_too_many(write: Write) -> None:
    path = str(write("key", KEY, 0o600))
    (problem,) = problems({"WIREGUARD_PRIVATE_KEY": KEY, "WIREGUARD_PRIVATE_KEY_FILE": path})
    assert "both set" in problem


def test_no_repr_shows_a_secret() -> None:
    contract_key = "0x" + "5a" * 32
    environment = {"WIREGUARD_PRIVATE_KEY": KEY, "CONTRACT_PRIVATE_KEY": contract_key}
    shown = repr(load({}, environment | {"RPC_URL": "wss://rpc.example/SECRET"}))
    assert KEY not in shown
    assert contract_key[2:] not in shown
    assert "SECRET" not in shown


def test_a_bad_rpc_url_is_not_quoted() -> None:
    (problem,) = problems({"RPC_URL": "wss://good.example, ftp://host/SECRET"})
    assert "entry 2" in problem
    assert "SECRET" not in problem


def test_an_unknown_key_in_the_file_is_a_problem(write: Write) -> None:
    (problem,) = problems({"CONFIG_FILE": str(write("c.toml", "nod_id = 1", 0o644))})
    assert "nod_id" in problem


@pytest.mark.parametrize("text", ["nonsense = = 1", "\x00"])
def test_a_broken_file_is_a_problem(write: Write, text: str) -> None:
    assert "CONFIG_FILE" in problems({"CONFIG_FILE": str(write("c.toml", text, 0o644))})[0]


def test_a_missing_file_is_a_problem() -> None:
    assert "CONFIG_FILE" in problems({"CONFIG_FILE": "/nonexistent/c.toml"})[0]


@pytest.mark.parametrize("name", ["", "wg 0", "x" * 16, "wg/0", ".", "..", "dstack-wg0", "wg\n"])
def test_an_interface_name_that_is_none(name: str) -> None:
    with pytest.raises(FormatError):
        interface(name)


@given(st.sampled_from(OPTIONS), st.text(max_size=60))
def test_only_config_errors_escape(option: Any, text: str) -> None:
    try:
        load({}, {option.name: text})
    except ConfigError as error:
        assert error.problems


def test_examples_are_accepted() -> None:
    for option in OPTIONS:
        if not option.secret:
            option.parse(option.example)
        if option.default:
            option.parse(option.default)


def test_a_peers_relays_follow_its_address_or_stand_alone() -> None:
    pin = "sha256:" + "ab" * 32
    text = f"db=192.0.2.1:1,tls://vpn.example.org:443?pin={pin},{pin}&sni=a.example,web=tcp://192.0.2.2:443?via=http://u:p@x:1"
    found = load({}, {"PEER_ENDPOINTS": text}).peer_endpoints
    assert set(found) == {"db", "web"}
    assert str(found["db"].udp) == "192.0.2.1:1"
    assert found["db"].relays[0].sni == "a.example"
    assert found["web"].udp is None
    assert found["web"].relays[0].via == "http://u:p@x:1"


@pytest.mark.parametrize(
    "text", ["192.0.2.1:1", "tls://a.example:1,db=192.0.2.1:1", "db=udp://a:1,udp://b:1"]
)
def test_alternatives_of_nobody_or_too_many_are_refused(text: str) -> None:
    (problem,) = problems({"PEER_ENDPOINTS": text})
    assert problem.startswith("PEER_ENDPOINTS")


@pytest.mark.parametrize(("transport", "mtu"), [("auto", 1420), ("udp", 1420), ("tcp", 1360), ("tls", 1360)])
def test_the_mtu_leaves_room_for_a_relay_where_all_goes_by_one(transport: str, mtu: int) -> None:
    assert load({}, {"TRANSPORT": transport}).mtu == mtu
    assert load({}, {"TRANSPORT": transport, "MTU": "1300"}).mtu == 1300


def test_a_key_of_our_own_making_is_taken_from_the_state_directory_once_it_is_there(tmp_path: Path) -> None:
    environment = {"WIREGUARD_PRIVATE_KEY": "generate", "STATE_DIR": str(tmp_path)}
    before = load({}, environment, need=frozenset({"WIREGUARD_PRIVATE_KEY"}))
    assert before.wireguard_private_key is None
    assert before.key_file == tmp_path / "wireguard.key"
    made = keyfile.make(before.key_file)
    assert load({}, environment).wireguard_private_key == made
    before.key_file.chmod(0o644)
    (problem,) = problems(environment)
    assert "can be read by others" in problem


def test_secrets_in_the_environment_are_known(write: Write) -> None:
    assert load({}, {"WIREGUARD_PRIVATE_KEY": KEY}).exposed == ("WIREGUARD_PRIVATE_KEY",)
    assert load({}, {"WIREGUARD_PRIVATE_KEY_FILE": str(write("key", KEY, 0o600))}).exposed == ()
    assert load({}, {"WIREGUARD_PRIVATE_KEY": "generate"}).exposed == ()


def test_staleness_that_begins_before_the_next_audit() -> None:
    (problem,) = problems({"MAX_STALENESS": "60000", "SYNC_INTERVAL": "30001"})
    assert problem.startswith("MAX_STALENESS: 60 s is less than two times SYNC_INTERVAL")
    settings = load({}, {"MAX_STALENESS": "60000", "STALE_POLICY": "isolate"})
    assert (settings.max_staleness, settings.stale_policy) == (60, StalePolicy.ISOLATE)
    assert problems({"STALE_POLICY": "panic"})


def test_heads_are_polled_on_public_networks() -> None:
    def polls(**environment: str) -> tuple[float | None, float]:
        found = load({}, environment)
        return found.head_interval, found.poll_interval

    quorum = {"RPC_URL": "wss://a.example,wss://b.example", "RPC_QUORUM": "2"}
    for economy in ({}, {"NETWORK": "local", "FOLLOW": "economy"}, quorum):
        assert polls(**economy) == (15, 5)
    for full in ({"NETWORK": "local"}, {"FOLLOW": "full"}, {"FOLLOW": "full", "HEAD_INTERVAL": "5s"}):
        assert polls(**full) == (None, 1)
    assert polls(HEAD_INTERVAL="7s") == (7, 7)
    assert problems({"HEAD_INTERVAL": "31s"}) and problems({"FOLLOW": "cheap"})


@pytest.mark.parametrize(
    ("text", "name"),
    [("0", None), ("1", "pendingLogs"), ("no", None), ("true", "pendingLogs"), ("newLogs", "newLogs")],
)
def test_the_subscription_of_early_revocations(text: str, name: str | None) -> None:
    urls = {"RPC_URL": "https://a.example,wss://b.example"}
    assert load({}, urls | {"REVOKE_EARLY": text}).revoke_early == name
    assert load({}, {}).revoke_early is None


def test_early_revocations_need_a_websocket() -> None:
    (problem,) = problems({"RPC_URL": "https://a.example,http://b.example", "REVOKE_EARLY": "1"})
    assert problem.startswith("REVOKE_EARLY: pre-confirmed events are announced over WebSocket")
    assert problems({"REVOKE_EARLY": "1"})  # the preset of the network has HTTP only
    for text in ("2", "x", "pending logs", "pending-logs", "é" * 5, "a" * 65):
        (problem,) = problems({"RPC_URL": "wss://b.example", "REVOKE_EARLY": text})
        assert problem.startswith("REVOKE_EARLY: expected 1, 0, or the name of a subscription"), problem


def test_a_quorum_of_more_hosts_than_there_are() -> None:
    urls = "wss://a.example/one,https://a.example/two,https://b.example"
    (problem,) = problems({"RPC_URL": urls, "RPC_QUORUM": "3"})
    assert problem.startswith(
        "RPC_QUORUM: 3 endpoints must agree, but RPC_URL names only 2 on different hosts"
    )
    assert load({}, {"RPC_URL": urls, "RPC_QUORUM": "2"}).rpc_quorum == 2
    assert problems({"RPC_QUORUM": "2"}), "the network's own endpoint is one"


@pytest.mark.parametrize("state_dir", ["here", "/" + "x" * 5000])
def test_a_key_can_not_be_made_in_a_state_directory_that_is_none(state_dir: str) -> None:
    (problem,) = problems({"WIREGUARD_PRIVATE_KEY": "generate", "STATE_DIR": state_dir})
    assert problem.startswith("STATE_DIR: ")


def test_a_null_byte_in_a_path_of_the_file_is_a_problem(write: Write) -> None:
    file = write("config.toml", 'wireguard_private_key_file = "/a\\u0000b"\nstate_dir = "/a\\u0000b"', 0o600)
    key, state = problems({}, file=file)
    assert "WIREGUARD_PRIVATE_KEY_FILE: '/a\\x00b': a path can't contain a null byte" in key
    assert state.startswith("STATE_DIR: ")


@pytest.mark.parametrize(
    ("network", "why"),
    [
        ("127.0.0.0/8", "loopback"),
        ("169.254.0.0/16", "link-local"),
        ("240.0.0.0/4", "reserved (class E)"),
        ("192.0.2.0/24", "for documentation"),
        ("198.18.0.0/15", "for benchmarks"),
        ("224.0.0.0/8", "multicast"),
        ("0.0.0.0/8", "this host's own network"),
        ("100.64.0.0/10", "the access provider's (carrier-grade NAT)"),
        ("100.100.0.0/16", "the access provider's (carrier-grade NAT)"),
        ("8.8.8.0/24", "public"),
        ("10.0.0.0/7", "public"),
    ],
)
def test_a_range_that_belongs_to_others_is_refused_with_the_reason(network: str, why: str) -> None:
    (problem,) = problems({"VPN_CIDR": network})
    assert problem.startswith("VPN_CIDR: expected a network within 10.0.0.0/8, 172.16.0.0/12 or 192")
    assert f"{network} is {why}. Example: VPN_CIDR=10.77.0.0/16" in problem


@pytest.mark.parametrize("network", ["10.0.0.0/8", "172.31.0.0/16", "192.168.7.0/30"])
def test_private_ranges_are_taken(network: str) -> None:
    assert str(load({}, {"VPN_CIDR": network}).vpn_cidr) == network


def test_a_byte_order_mark_is_passed_over_and_utf_16_is_named(tmp_path: Path) -> None:
    for name, text in (("key", KEY), ("c.toml", "mtu = 1300\n")):
        for encoding in ("utf-8-sig", "utf-16"):
            path = tmp_path / f"{name}.{encoding}"
            path.write_bytes(text.encode(encoding))
            path.chmod(0o600)
    key, file = tmp_path / "key", tmp_path / "c.toml"
    names = {"WIREGUARD_PRIVATE_KEY_FILE": key, "CONFIG_FILE": file}
    settings = load({}, {name: f"{path}.utf-8-sig" for name, path in names.items()})
    assert settings.wireguard_private_key is not None
    assert settings.mtu == 1300
    found = problems({name: f"{path}.utf-16" for name, path in names.items()})
    assert len(found) == 2
    assert all("the file is UTF-16 text: save it as UTF-8" in problem for problem in found)


DIGITS = "C0ffee" * 10 + "beef"


@pytest.mark.parametrize("text", ["{}", "0x{}", "0X{}", "{}\n", "0x{}\r\n", " \t0x{} \n\n", "\ufeff0x{}\r\n"])
@pytest.mark.parametrize("by_file", [False, True], ids=["environment", "file"])
def test_forms_of_an_accounts_key(write: Write, text: str, by_file: bool) -> None:
    content = text.format(DIGITS)
    name, value = ("CONTRACT_PRIVATE_KEY", content)
    if by_file:
        name, value = f"{name}_FILE", str(write("account.key", content, 0o600))
    key = load({}, {name: value}).contract_private_key
    assert key is not None
    assert key.reveal().removeprefix("0x") == DIGITS


@pytest.mark.parametrize(
    "text", [DIGITS[1:], DIGITS + "0", "0x0x" + DIGITS[4:], DIGITS[:-1] + "g", "x" + DIGITS]
)
def test_what_is_not_an_accounts_key_is_refused_without_showing_it(text: str) -> None:
    (problem,) = problems({"CONTRACT_PRIVATE_KEY": text})
    assert "expected 64 hexadecimal digits" in problem
    assert DIGITS[4:20] not in problem
