from pathlib import Path

import pytest
from tests.scripted import key

from dstack_vpn.adapters.store.endpoints import EndpointFile
from dstack_vpn.core.model import SocketAddress
from dstack_vpn.errors import StoreError

PLACES = {key(1): SocketAddress("192.0.2.1", 51820), key(2): SocketAddress("2001:db8::1", 1)}


async def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    file = EndpointFile(tmp_path / "endpoints.json")
    assert await file.load() == {}
    await file.save(PLACES)
    assert await EndpointFile(tmp_path / "endpoints.json").load() == PLACES
    assert (tmp_path / "endpoints.json").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "[" * 100_000,
        "1",
        '{"x": ["192.0.2.1", 1]}',
        '{"%s": [1]}',
        '{"%s": ["a", 1]}',
        '{"%s": ["::1", 0]}',
    ],
)
async def test_what_is_no_such_file_is_told(tmp_path: Path, text: str) -> None:
    path = tmp_path / "endpoints.json"
    path.write_text(text.replace("%s", str(key(1))))
    with pytest.raises(StoreError, match=r"endpoints\.json"):
        await EndpointFile(path).load()


async def test_a_place_that_can_not_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError):
        await EndpointFile(tmp_path / "file" / "endpoints.json").save(PLACES)
