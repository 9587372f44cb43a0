"""The replacement of a command's process by the daemon."""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path


def become_the_daemon(arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
    """Replace this process by ``run``, so that signals and the exit code are the daemon's.

    Without an environment, the daemon has this process's.
    """
    program = Path(sys.argv[0])
    start = [str(program)] if program.name == "dstack-vpn" else [sys.executable, "-m", "dstack_vpn"]
    command = [*start, "run", *arguments]
    sys.stdout.flush()
    sys.stderr.flush()
    if environment is None:
        os.execv(start[0], command)  # noqa: S606 - starts dstack-vpn itself
    else:
        os.execve(start[0], command, dict(environment))  # noqa: S606 - starts dstack-vpn itself
