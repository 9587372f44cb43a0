import os
import socket
from pathlib import Path

import pytest

from dstack_vpn.adapters.store.lock import claim_interface, holder, is_locked, lock
from dstack_vpn.errors import StoreError


def test_a_directory_has_one_daemon(tmp_path: Path) -> None:
    first = lock(tmp_path / "state")
    assert first is not None
    with pytest.raises(StoreError, match="another dstack-vpn runs with STATE_DIR"):
        lock(tmp_path / "state")
    os.close(first)  # as when its process ends
    again = lock(tmp_path / "state")
    assert again is not None
    os.close(again)


def test_without_a_directory_there_is_nothing_to_claim(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert lock(tmp_path / "file" / "state") is None


def test_whether_a_daemon_runs_is_seen_without_a_trace(tmp_path: Path) -> None:
    assert not is_locked(tmp_path / "state")
    assert not (tmp_path / "state").exists()
    held = lock(tmp_path / "state")
    assert held is not None
    assert is_locked(tmp_path / "state")
    os.close(held)
    assert not is_locked(tmp_path / "state")


def test_an_interfaces_name_has_one_daemon() -> None:
    name = f"t{os.getpid()}"
    assert holder(name) is None
    first = claim_interface(name)
    assert first is not None
    with first:
        assert claim_interface(name) is None
        held = [holder(name) for _ in range(300)]
        assert (held[0], held[-1]) == (os.getpid(), 0), "its queue is full, and yet it is held"
        other = claim_interface(f"{name}x")
        assert other is not None
        other.close()
    again = claim_interface(name)
    assert again is not None
    again.close()


def test_a_name_that_nobody_listens_at_is_not_held() -> None:
    name = f"t{os.getpid()}y"
    with socket.socket(socket.AF_UNIX) as squatter:
        squatter.bind(f"\0dstack-vpn/{name}")
        assert claim_interface(name) is None
        assert holder(name) is None
