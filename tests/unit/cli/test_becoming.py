"""A process that is replaced by the daemon, shown with real processes."""

import subprocess
import sys
from pathlib import Path

import pytest

from dstack_vpn.cli import becoming

SOURCES = str(Path(becoming.__file__).parents[2])
CODE = """
import sys
from dstack_vpn.cli.becoming import become_the_daemon
print("before")
become_the_daemon(["--help"], {environment})
"""


@pytest.mark.parametrize("environment", [None, {"PYTHONPATH": SOURCES, "LANG": "C.UTF-8"}])
def test_the_process_continues_as_run_with_its_arguments(environment: dict[str, str] | None) -> None:
    code = CODE.format(environment=environment)
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": SOURCES, "LANG": "C.UTF-8"},
    )
    assert done.returncode == 0, done.stderr
    first, second, *_ = done.stdout.splitlines()
    assert first == "before"
    assert second.startswith("Usage: ") and " run " in second
