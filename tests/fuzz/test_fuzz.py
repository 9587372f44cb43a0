"""A short run over each decoder, and tests of the fuzzer itself. `make fuzz` is the long run."""

import itertools
import mmap
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.fuzz import driver
from tests.fuzz.decoders import DECODERS, Decoder
from tests.fuzz.mutate import mutations
from tests.fuzz.seeds.__main__ import MADE, SIGNED, make

from dstack_vpn.adapters.device import wgnetlink
from dstack_vpn.config import load
from dstack_vpn.config.parsers import urls
from dstack_vpn.errors import ConfigError, DeviceError, FormatError

KIB = 1024
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", DECODERS)
def test_only_documented_errors_escape(name: str) -> None:
    result = driver.run(name, 500, seed=1)
    assert (result.inputs, result.findings) == (500, [])
    assert 0 < result.accepted < 500  # the first check neither refuses nor accepts all inputs


def test_the_same_seed_gives_the_same_inputs() -> None:
    seeds = driver.corpus("uapi")
    first, second = (list(itertools.islice(mutations(seeds, 7), 500)) for _ in range(2))
    assert first == second
    assert first != list(itertools.islice(mutations(seeds, 8), 500))


def test_the_corpus_is_what_the_encoders_make() -> None:
    assert MADE.keys() == DECODERS.keys()
    for name in MADE.keys() - SIGNED:
        assert driver.corpus(name) == make(name), f"run: python -m tests.fuzz.seeds {name}"


def _raise(_: bytes) -> object:
    raise LookupError("an undocumented error")


def _dawdle(_: bytes) -> None:
    until = time.process_time() + 0.02
    while time.process_time() < until:
        pass


@pytest.mark.parametrize(
    ("feed", "problem"), [(_raise, "LookupError: an undocumented error"), (_dawdle, "slow")]
)
def test_an_error_that_is_not_documented_and_a_slow_input_are_found(
    monkeypatch: pytest.MonkeyPatch, feed: Callable[[bytes], object], problem: str
) -> None:
    monkeypatch.setitem(DECODERS, "urls", Decoder(feed, (ValueError,)))
    monkeypatch.setattr(driver, "SLOW", 0.01)
    result = driver.run("urls", 100, seed=1)
    assert result.failed
    assert len(result.findings) == result.inputs == 10
    assert result.findings[0].startswith(f"{problem}: input 0: ")


def test_memory_that_is_kept_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[mmap.mmap] = []

    def leak(_: bytes) -> None:
        kept.append(mmap.mmap(-1, 64 * KIB))  # new memory of the kernel, not of this process's heap
        kept[-1].write(bytes(64 * KIB))

    monkeypatch.setitem(DECODERS, "urls", Decoder(leak))
    result = driver.run("urls", 1000, seed=1)
    for each in kept:
        each.close()
    assert not result.findings
    assert result.growth > 10 * KIB
    assert result.failed


def test_each_decoder_has_a_process_of_its_own() -> None:
    command = [
        sys.executable,
        "-m",
        "tests.fuzz.driver",
        "--runs",
        "50",
        "--only",
        "urls",
        "--only",
        "networks",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert [line.split()[:2] for line in done.stdout.splitlines()] == [["urls", "50"], ["networks", "50"]]


def test_a_process_that_a_decoder_takes_down_is_a_finding(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    crashing = tmp_path / "python"
    crashing.write_text("#!/bin/sh\nkill -SEGV $$\n")
    crashing.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(crashing))
    assert driver._run_apart("urls", 50, seed=1)
    assert "urls           ended with -11" in capsys.readouterr().out


def test_a_prefix_without_a_mask_is_refused_as_any_other_nonsense() -> None:
    with pytest.raises(DeviceError):
        wgnetlink.DumpParser().feed(memoryview(driver.corpus("dump")[-1]))


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
