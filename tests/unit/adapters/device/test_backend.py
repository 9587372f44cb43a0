from pathlib import Path
from typing import Literal

import pytest

from dstack_vpn.adapters.device import backend, process
from dstack_vpn.adapters.device.backend import choose_backend, make_link
from dstack_vpn.adapters.device.link import KernelLink, UserspaceLink
from dstack_vpn.core.ownership import Claim
from dstack_vpn.errors import DeviceError

Wanted = Literal["auto", "kernel", "userspace"]


class Host:
    """The host's properties that `choose_backend` reads."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.kernel = True
        self.admin = True
        self.program = folder / "wireguard-go"
        self.program.touch()
        self.program.chmod(0o700)
        (folder / "tun").touch()
        monkeypatch.setattr(backend, "find_family", self._find_family)
        monkeypatch.setattr(backend, "has_net_admin", lambda: self.admin)
        monkeypatch.setattr(process, "TUN", str(folder / "tun"))
        monkeypatch.setattr(process, "SOCKETS", folder)

    async def _find_family(self, name: str) -> int | None:
        return 30 if self.kernel and name == "wireguard" else None

    async def choose(self, wanted: Wanted) -> str:
        return await choose_backend(wanted, "wg0", str(self.program))


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Host:
    return Host(monkeypatch, tmp_path)


async def test_the_kernel_comes_first(host: Host) -> None:
    assert await host.choose("auto") == "kernel"
    assert await host.choose("kernel") == "kernel"
    assert await host.choose("userspace") == "userspace"


async def test_without_it_wireguard_go_is_taken(host: Host) -> None:
    host.kernel = False
    assert await host.choose("auto") == "userspace"
    with pytest.raises(DeviceError, match="no WireGuard: modprobe wireguard, or BACKEND=userspace"):
        await host.choose("kernel")


async def test_what_runs_already_is_kept(host: Host) -> None:
    with process.bind_socket(process.socket_path("wg0")):
        assert await host.choose("auto") == "userspace"
        assert await host.choose("kernel") == "kernel"
        host.program.unlink()
        assert await host.choose("userspace") == "userspace", "somebody else runs it for us"


async def test_each_thing_that_is_missing_is_named(host: Host, tmp_path: Path) -> None:
    (tmp_path / "tun").unlink()
    with pytest.raises(DeviceError, match="tun is missing: modprobe tun"):
        await host.choose("userspace")
    host.program.unlink()
    with pytest.raises(DeviceError, match="apt install wireguard-go"):
        await host.choose("userspace")
    host.admin = False
    with pytest.raises(DeviceError, match="CAP_NET_ADMIN"):
        await host.choose("auto")


def test_a_backend_has_its_link() -> None:
    assert isinstance(make_link("kernel", Claim("wg0", ())), KernelLink)
    assert isinstance(make_link("userspace", Claim("wg0", ())), UserspaceLink)
    with pytest.raises(DeviceError, match="not an interface name"):
        make_link("kernel", Claim("../x", ()))
