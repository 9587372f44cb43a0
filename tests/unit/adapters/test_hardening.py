"""A hardened process, examined from other processes."""

import os
import resource
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dstack_vpn.adapters.hardening import NO_CORE

START = """
import resource, subprocess, sys
from dstack_vpn.adapters.hardening import harden
{before}
done = harden()
child = subprocess.Popen(["sleep", "60"])
print(done.no_core, done.undumpable, done.locked, child.pid, flush=True)
sys.stdin.read()
child.kill()
"""


@contextmanager
def hardened(before: str = "") -> Iterator[tuple["subprocess.Popen[str]", list[str]]]:
    """Run a hardened process. Yield it and the fields that it prints."""
    program = START.format(before=textwrap.dedent(before))
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", program], stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        line = next(line for line in process.stdout if line.startswith(("True", "False")))
        try:
            yield process, line.split()
        finally:
            if process.poll() is None:
                process.communicate("")


def field(pid: int, name: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(name + ":")))


def test_no_core_of_it_nor_of_what_it_starts() -> None:
    with hardened() as (process, said):
        assert said[:2] == ["True", "True"]
        for pid in (process.pid, int(said[3])):
            assert resource.prlimit(pid, resource.RLIMIT_CORE) == (NO_CORE, NO_CORE)
        child = int(said[3])
        process.send_signal(signal.SIGSEGV)
        _, status = os.waitpid(process.pid, 0)
        assert os.WTERMSIG(status) == signal.SIGSEGV
        assert not os.WCOREDUMP(status)
        os.kill(child, signal.SIGKILL)
        process.returncode = -signal.SIGSEGV


def test_nobody_else_looks_into_it() -> None:
    """Root owns the /proc files of an undumpable process, also if another user runs it."""
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    with hardened("import os; os.setuid(65534)") as (process, said):
        assert said[1] == "True"
        assert Path(f"/proc/{process.pid}/mem").stat().st_uid == 0
        reader = ["python3", "-c", f"open('/proc/{process.pid}/mem', 'rb')"]
        tried = subprocess.run(reader, user=65534, capture_output=True, text=True, check=False)
        assert "PermissionError" in tried.stderr


def test_memory_is_locked_only_where_there_is_no_limit() -> None:
    limited = """
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (65536, 65536))
        import os; os.setuid(65534)
    """
    if os.geteuid() == 0:
        with hardened(limited) as (process, said):
            assert said[2] == "False"
            assert field(process.pid, "VmLck") == 0
    with hardened() as (process, said):
        assert (field(process.pid, "VmLck") > 0) is (said[2] == "True")
        if said[2] == "True":
            assert field(process.pid, "VmRSS") < 40_000, "locked as it is used, not all that is mapped"
