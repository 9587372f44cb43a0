import os
from pathlib import Path

import pytest

from dstack_vpn.adapters.store.lock import lock
from dstack_vpn.errors import StoreError


def test_a_directory_has_one_daemon(tmp_path: Path) -> None:
    first = lock(tmp_path / "state")
    assert first is not None
    with pytest.raises(StoreError, match="another dstack-vpn runs with STATE_DIR"):
        lock(tmp_path / "state")
    os.close(first)  # as the end of its process does
    again = lock(tmp_path / "state")
    assert again is not None
    os.close(again)


def test_without_a_directory_there_is_nothing_to_claim(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert lock(tmp_path / "file" / "state") is None
