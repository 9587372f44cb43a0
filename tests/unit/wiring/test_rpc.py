"""The RPC endpoints that the settings name."""

from dstack_vpn.config import load
from dstack_vpn.wiring.doctor import _hosts
from dstack_vpn.wiring.rpc import contacts, rpc_urls


def test_a_host_that_has_a_key_is_shown_without_it() -> None:
    settings = load({}, {"RPC_URL": "https://k3y1nth3h0st9.rpc.example.org/v2/key,http://127.0.0.1:1"})
    for found in (contacts(settings), _hosts(settings)):
        shown = next(shown for shown, host in found.items() if host == "k3y1nth3h0st9.rpc.example.org")
        assert shown.startswith("...") and shown.endswith(".rpc.example.org")
        assert "k3y1" not in shown
    assert "127.0.0.1" in contacts(settings)
    assert "127.0.0.1" not in _hosts(settings)


def test_behind_a_proxy_its_host_is_the_one_to_reach() -> None:
    environment = {
        "RPC_URL": "https://a.example,wss://b.example",
        "HTTPS_PROXY": "http://u:p4ss@proxy.example",
    }
    settings = load({}, environment | {"NO_PROXY": "b.example"})
    assert contacts(settings) == {"proxy.example": "proxy.example", "b.example": "b.example"}
    assert [url.way for url in rpc_urls(settings)] == [
        "https://a.example through the proxy proxy.example",
        "wss://b.example",
    ]
