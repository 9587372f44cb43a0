import json
from pathlib import Path

import pytest

from dstack_vpn.adapters.store.usage import UsageFile
from dstack_vpn.core.chain.usage import Usage
from dstack_vpn.core.chain.usage_days import UsageDay, UsageDays
from dstack_vpn.errors import StoreError

USAGE = {"wss://a": {"eth_call": Usage(1, 2, 3), "other": Usage(4, 0, 5)}, "https://b": {}}
DAYS = UsageDays((UsageDay(20_785, 86_400.0, USAGE), UsageDay(20_786, 12.5, {})))


async def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "rpc-usage.json"
    assert await UsageFile(path).load() == UsageDays()
    await UsageFile(path).save(DAYS)
    assert await UsageFile(path).load() == DAYS
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "1", "null", "[" * 100_000),
        '{"x": [1, {}]}',
        '{"-1": [1, {}]}',
        '{"1": [1]}',
        '{"1": [-1, {}]}',
        '{"1": [NaN, {}]}',
        '{"1": [true, {}]}',
        '{"1": [1, []]}',
        '{"1": [1, {"a": {"m": [1, 2]}}]}',
        '{"1": [1, {"a": {"m": [1, 2, -3]}}]}',
        '{"1": [1, {"a": {"m": [1, 2, 3.5]}}]}',
        '{"1": [1, {"a": {"m": [1, 2, true]}}]}',
        '{"1": [1, {"a": {"m": [1, 2, 1e400]}}]}',
        json.dumps({"1": [1, {"a" * 300: {}}]}),
        json.dumps({str(number): [1, {}] for number in range(8)}),
    ],
)
async def test_what_is_no_such_file_is_an_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "rpc-usage.json"
    path.write_text(text)
    with pytest.raises(StoreError, match=r"rpc-usage\.json"):
        await UsageFile(path).load()


async def test_a_place_that_can_not_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError):
        await UsageFile(tmp_path / "file" / "rpc-usage.json").save(DAYS)
