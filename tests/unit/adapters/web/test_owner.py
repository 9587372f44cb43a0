"""The owner of the process at the remote end of a connection."""

import os
import socket

import pytest

from dstack_vpn.adapters.web import owner
from dstack_vpn.adapters.web.owner import owner_of

NOBODY = 65534


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_our_own_connection_is_ours(host: str) -> None:
    with socket.create_server(
        (host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET
    ) as listening:
        here = listening.getsockname()[:2]
        with socket.create_connection(here) as client:
            there = client.getsockname()[:2]
            assert owner_of(there, here) == os.geteuid()
            assert owner_of(("192.0.2.1", 4711), here) is None
        assert owner_of((there[0], there[1] ^ 1), here) is None


def test_ipv4_is_found_on_a_socket_for_both() -> None:
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as listening:
        port = listening.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            there = client.getsockname()[:2]
            assert owner_of((f"::ffff:{there[0]}", there[1]), ("::ffff:127.0.0.1", port)) == os.geteuid()


def test_a_client_of_another_machine_is_not_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table has a line for each socket. Reading thousands blocks the event loop for 25 ms."""

    class Unread:
        name = "tcp"

        def read_text(self) -> str:
            raise AssertionError("read")

    monkeypatch.setattr(owner, "_TABLES", (Unread(),))
    for there in ("192.0.2.1", "::ffff:192.0.2.1", "2001:db8::1"):
        assert owner_of((there, 4711), ("127.0.0.1", 1)) is None
    for there in ("127.0.0.1", "::ffff:127.0.0.1", "::1"):
        with pytest.raises(AssertionError, match="read"):
            owner_of((there, 4711), ("127.0.0.1", 1))


@pytest.mark.skipif(os.geteuid() != 0, reason="another user's process is needed")
def test_another_users_connection_is_theirs() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        here = listening.getsockname()
        child = os.fork()
        if not child:
            os.setuid(NOBODY)
            with socket.create_connection(here) as client:
                client.recv(1)
            os._exit(0)
        connection, there = listening.accept()
        with connection:
            assert owner_of(there, here) == NOBODY
        os.waitpid(child, 0)


def test_an_address_with_a_scope_or_none_is_nobodys() -> None:
    assert owner_of(("fe80::1%eth0", 1), ("fe80::2%eth0", 2)) is None
    assert owner_of(("nonsense", 1), ("127.0.0.1", 2)) is None
