"""The order, the output and the failures of .ci/run, with targets that do nothing."""

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
MACHINE: Final = "test-kernel"
OTHERS: Final = ["check", "slither", "images", "test-docker", "test"]
MAKE: Final = """#!/bin/bash
[ "$1" = test-kernel ] || echo "$1" >>log
if [ "$1" = test-kernel ]; then
  grep SigIgn /proc/self/status >ignored
  if [ -e endless ]; then echo $$ >machine; sleep 1000; fi
fi
if [ -e endless ]; then until [ -e machine ]; do sleep 0.01; done; fi
echo "output of $1"
[ ! -e "fails-$1" ]
"""
IGNORES_SIGINT: Final = 1 << (signal.SIGINT - 1)


class Run:
    """A checkout with .ci/run, and a make that records its targets."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name, text in {
            ".ci/run": (ROOT / ".ci" / "run").read_text(),
            "scripts/lib.sh": (ROOT / "scripts" / "lib.sh").read_text(),
            "scripts/setup": "#!/bin/sh\n",
            "scripts/setup-docker": "#!/bin/sh\necho docker-$1 >>log\n",
            "bin/make": MAKE,
        }.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)

    def start(self) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.folder / ".ci" / "run"],
            env={"PATH": f"{self.folder / 'bin'}:{os.defpath}"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )

    def log(self) -> list[str]:
        return (self.folder / "log").read_text().split()


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def test_the_machines_output_follows_that_of_the_parts_beside_it(run: Run) -> None:
    done = run.start()
    assert done.returncode == 0
    assert run.log() == [*OTHERS, "docker-stop"]
    printed = [line for line in done.stdout.splitlines() if line.startswith("output")]
    assert printed == [f"output of {name}" for name in (*OTHERS[:3], MACHINE, *OTHERS[3:])]


def test_a_failure_of_the_machine_fails_the_run(run: Run) -> None:
    (run.folder / f"fails-{MACHINE}").touch()
    done = run.start()
    assert done.returncode == 1
    assert run.log() == [*OTHERS[:3], "docker-stop"]
    assert done.stdout.endswith(f"output of {MACHINE}\n"), "the error is the last output"


@pytest.mark.parametrize("failing", OTHERS[:3])
def test_a_failure_beside_the_machine_ends_it(run: Run, failing: str) -> None:
    (run.folder / "endless").touch()
    (run.folder / f"fails-{failing}").touch()
    done = run.start()
    assert done.returncode != 0
    assert run.log() == [*OTHERS[: OTHERS.index(failing) + 1], "docker-stop"]
    assert done.stdout.endswith(f"output of {failing}\n"), "the error is the last output"
    machine = int((run.folder / "machine").read_text())
    deadline = time.monotonic() + 10
    while Path(f"/proc/{machine}").exists():
        assert time.monotonic() < deadline, "the machine still runs"
        time.sleep(0.01)


def test_the_machines_programs_can_be_interrupted(run: Run) -> None:
    """Without job control, a shell makes its background jobs ignore SIGINT."""
    run.start()
    ignored = int((run.folder / "ignored").read_text().split()[1], 16)
    assert not ignored & IGNORES_SIGINT
