"""The demo as a user runs it: it passes, and leaves nothing behind after any kind of exit."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from demo.lab import Tools
from demo.namespaces import MOUNTS, NAMED
from tests.netns_support import wait_until

import dstack_vpn

pytestmark = [pytest.mark.netns, pytest.mark.anvil, pytest.mark.timeout(180)]
Demo = Callable[..., "subprocess.Popen[str]"]
SOURCES = str(Path(dstack_vpn.__file__).parents[1])


@pytest.fixture
def demo(tools: Tools, tmp_path: Path) -> Iterator[Demo]:
    """Start demos with their directories in the test's folder."""
    path = f"{tools.anvil.parent}:{tools.wireguard_go.parent}:{os.defpath}:/usr/sbin:/sbin"

    def start(*arguments: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", "demo", *arguments],
            env={"PATH": path, "TMPDIR": str(tmp_path), "LANG": "C.UTF-8", "PYTHONPATH": SOURCES},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    yield start
    # Only a failed test leaves a demo.
    with start("--clean") as cleaning:
        cleaning.communicate(timeout=30)


def tags(folder: Path) -> list[str]:
    return [path.name.removeprefix("dstack-vpn-demo-") for path in folder.glob("dstack-vpn-demo-*")]


def tag_of(folder: Path) -> str:
    wait_until(lambda: tags(folder), "the demo has a directory")
    return tags(folder)[0]


def namespaces(tag: str) -> list[str]:
    return [path.name for folder in (NAMED, MOUNTS) for path in folder.glob(f"dvpn-{tag}-*")]


def wait_for_step(running: "subprocess.Popen[str]", step: int) -> None:
    """Return when the demo begins a step; fail with its output if it ends before that."""
    assert running.stdout is not None
    lines: list[str] = []
    for line in running.stdout:
        lines.append(line)
        if line.startswith(f"{step}/9"):
            return
    pytest.fail(f"the demo ended before step {step}:\n{''.join(lines)}")


def processes(folder: Path) -> list[str]:
    """Return the processes with the test's folder in their environment or arguments."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            text = b"".join((process / name).read_bytes() for name in ("environ", "cmdline"))
            if str(folder).encode() in text:
                found.append(text.replace(b"\0", b" ").decode(errors="replace"))
    return found


def assert_nothing_left(folder: Path, tag: str) -> None:
    assert namespaces(tag) == []
    assert processes(folder) == []
    assert list(folder.iterdir()) == []


def assert_shows_everything(said: str) -> None:
    assert re.findall(r"^(\d)/9 ", said, re.MULTILINE) == list("123456789")
    for change in ("a policy is enforced by a, b and c", "a loses the tag web: a and b enforce that"):
        assert re.search(rf"block \d+: {change} +[0-9.]+ m?s  daemon [0-9.]+ ms", said), change
    assert "its connection to tcp:5432 is cut, and that to tcp:22 goes on" in said
    assert "All steps passed" in said


def printed(said: str, pattern: str) -> list[str]:
    """Return a command that the demo printed."""
    found = re.search(pattern, said)
    assert found is not None, said
    return found[1].split()


def output_of(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("step", [1, 2, 5])
def test_an_interrupted_one_leaves_nothing(
    demo: Demo, tmp_path: Path, number: signal.Signals, step: int
) -> None:
    with demo("--plain") as running:
        tag = tag_of(tmp_path)
        wait_for_step(running, step)
        running.send_signal(number)
        running.communicate(timeout=30)
    assert running.returncode == 128 + number
    assert_nothing_left(tmp_path, tag)


def test_a_failing_one_names_the_step_keeps_the_logs_and_nothing_else(demo: Demo, tmp_path: Path) -> None:
    with demo("--plain") as running:
        tag = tag_of(tmp_path)
        wait_for_step(running, 3)
        daemons = [text for text in processes(tmp_path) if " -m dstack_vpn run" in text]
        assert len(daemons) == 3
        assert all(f" PYTHONPATH={SOURCES} " in text for text in daemons), "the daemons of another tree"
        # A fault that the demo does not expect: node b loses its network.
        subprocess.run(["ip", "-n", f"dvpn-{tag}-b", "link", "set", "eth0", "down"], check=True)
        said, _ = running.communicate(timeout=90)
    assert running.returncode == 1
    assert re.search(r"^error: step \d, .*", said, re.MULTILINE)
    (logs,) = tmp_path.iterdir()
    assert logs.name in said
    assert {"a-daemon.log", "b-daemon.log", "chain-anvil.log"} <= {path.name for path in logs.iterdir()}
    assert namespaces(tag) == []
    assert not list(logs.rglob("*.key"))


def test_a_kept_one_shows_everything_and_goes_on_until_it_is_cleaned_up(
    demo: Demo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # for the clean-up command
    with demo("--plain", "--keep") as running:
        tag = tag_of(tmp_path)
        said, _ = running.communicate(timeout=120)
    assert running.returncode == 0, said
    assert_shows_everything(said)
    assert re.findall(r"packets, (\d+) lost", said) == ["0"] * 7
    assert len(namespaces(tag)) == 8
    *inside, shell = printed(said, r"a shell +(nsenter \S+-b .*)")
    assert shell == "bash"
    output_of([*inside, "ping", "-c", "1", "-W", "2", "10.77.0.2"])
    *inside, browser, _, url = printed(said, r"dashboard +(nsenter \S+-b .*)")
    assert browser == "chromium"
    assert "<title>" in output_of([*inside, "curl", "-fsS", url])
    assert "10.77.0.2" in output_of(printed(said, r"status +(nsenter \S+-b .*)"))
    assert "removed 1 demo" in output_of(printed(said, r"clean up +(.*)"))
    assert_nothing_left(tmp_path, tag)


def test_cleaning_up_spares_one_that_goes_on_and_two_do_not_meet_and_leave_nothing(
    demo: Demo, tmp_path: Path
) -> None:
    with demo("--plain") as first, demo("--plain") as second:
        wait_until(lambda: len(tags(tmp_path)) == 2, "both demos have a directory")
        both = tags(tmp_path)
        with demo("--clean") as cleaning:
            assert "nothing to remove" in cleaning.communicate(timeout=30)[0]
        said = [running.communicate(timeout=120)[0] for running in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0], "\n".join(said)
    for tag, text in zip(both, said, strict=True):
        assert_shows_everything(text)
        assert_nothing_left(tmp_path, tag)


def test_what_is_missing_is_named_all_at_once(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "demo"],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    for program in ("ip", "ping", "wireguard-go", "anvil"):
        assert f"- {program} is not on the PATH" in done.stderr
