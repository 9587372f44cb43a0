"""Doctor's checks of the machine name each problem and its solution."""

import socket
from pathlib import Path

import pytest
from tests.ports import free_port

from dstack_vpn.adapters.device import process
from dstack_vpn.adapters.doctor import machine
from dstack_vpn.core.model import DeviceState
from dstack_vpn.core.observe.check import CheckStatus, passed


def test_a_udp_port_is_free_ours_or_somebody_elses() -> None:
    port = free_port()
    assert machine.udp_port(port, "wg0", None).status is CheckStatus.PASS
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("0.0.0.0", port))
        taken = machine.udp_port(port, "wg0", DeviceState(None, port + 1))
        assert taken.status is CheckStatus.FAIL
        assert "LISTEN_PORT" in taken.advice
        assert machine.udp_port(port, "wg0", DeviceState(None, port)).found == f"{port} is in use by wg0"


def test_the_http_port_is_free_ours_off_or_somebody_elses() -> None:
    port = free_port()
    assert machine.http_port("localhost", port, running=False).status is CheckStatus.PASS
    assert machine.http_port("127.0.0.1", 0, running=False).found == "switched off"
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        taken = machine.http_port("127.0.0.1", port, running=False)
        assert (taken.status, "HEALTH_CHECK_PORT" in taken.advice) == (CheckStatus.FAIL, True)
        assert machine.http_port("127.0.0.1", port, running=True).status is CheckStatus.PASS


def test_what_the_process_may_not_do_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "has_net_admin", lambda: False)
    assert machine.capabilities().status is CheckStatus.FAIL
    monkeypatch.setattr(machine, "has_net_admin", lambda: True)
    assert machine.capabilities() == passed("capabilities", "CAP_NET_ADMIN")


def test_a_tun_device_that_is_missing_or_forbidden_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "TUN", str(tmp_path / "tun"))
    missing = machine.tun("auto")
    assert (missing.status, "modprobe tun" in missing.advice) == (CheckStatus.FAIL, True)
    (tmp_path / "tun").mkdir()
    assert "Is a directory" in machine.tun("userspace").found
    assert machine.tun("kernel").status is CheckStatus.PASS


async def test_no_wireguard_at_all_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    async def none(_: str) -> None:
        return None

    monkeypatch.setattr(machine, "find_family", none)
    assert (await machine.wireguard("kernel")).advice.startswith("modprobe wireguard")
    absent = await machine.wireguard("auto", "no-such-program")
    assert (absent.status, "apt install wireguard-go" in absent.advice) == (CheckStatus.FAIL, True)


async def test_an_old_wireguard_go_is_worth_knowing(tmp_path: Path) -> None:
    old = tmp_path / "wireguard-go"
    old.write_text("#!/bin/sh\necho 'wireguard-go v0.0.20220316'\n")
    old.chmod(0o755)
    check = await machine.wireguard("userspace", str(old))
    assert (check.status, "0.0.20231211" in check.advice) == (CheckStatus.WARN, True)


def test_the_state_directory_may_be_made_later_but_needs_a_place(tmp_path: Path) -> None:
    assert machine.state(tmp_path / "not" / "yet").status is CheckStatus.PASS
    assert machine.state(Path("/proc/nowhere")).status is CheckStatus.FAIL
