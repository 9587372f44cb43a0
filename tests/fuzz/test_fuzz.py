"""A short run of the fuzzer over each decoder; `make fuzz` is the long one."""

import itertools

import pytest
from tests.fuzz import driver
from tests.fuzz.decoders import DECODERS

from dstack_vpn.adapters.device import wgnetlink
from dstack_vpn.errors import DeviceError


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
