"""A short run of the fuzzer over each decoder; `make fuzz` is the long one."""

import itertools
from pathlib import Path

import pytest
from tests.fuzz import driver
from tests.fuzz.decoders import DECODERS

from dstack_vpn.adapters.device import wgnetlink
from dstack_vpn.config import load
from dstack_vpn.config.parsers import urls
from dstack_vpn.errors import ConfigError, DeviceError, FormatError


@pytest.mark.parametrize("name", DECODERS)
def test_only_documented_errors_escape(name: str) -> None:
    result = driver.run(name, 2000, seed=1)
    assert (result.inputs, result.findings) == (2000, [])


def test_the_same_seed_gives_the_same_inputs() -> None:
    seeds = driver.corpus("uapi")
    first, second = (list(itertools.islice(driver.mutations(seeds, 7), 500)) for _ in range(2))
    assert first == second
    assert first != list(itertools.islice(driver.mutations(seeds, 8), 500))


def test_a_prefix_without_a_mask_is_refused_as_any_other_nonsense() -> None:
    with pytest.raises(DeviceError):
        wgnetlink.DumpParser().feed(memoryview(driver.corpus("dump")[1]))


@pytest.mark.parametrize("url", ["ws://127.0.0.1:854O", "ws://127.0.0.1:99999", "ws://[::1"])
def test_an_rpc_url_whose_port_is_none(url: str) -> None:
    with pytest.raises(FormatError, match="entry 1 is not") as caught:
        urls(url)
    assert url not in str(caught.value)


def test_a_configuration_file_that_is_nested_too_deep(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text("mtu = " + "[" * 3000)
    with pytest.raises(ConfigError, match="CONFIG_FILE"):
        load({}, {}, file)
