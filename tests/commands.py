"""Command lines in this process: starting an interpreter takes longer than most commands."""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from unittest.mock import patch

import structlog
from click.testing import CliRunner

from dstack_vpn.cli import run


@dataclass(frozen=True)
class Result:
    """The outcome of a command."""

    code: int
    out: str
    err: str


def run_here(arguments: Sequence[str], environment: Mapping[str, str]) -> Result:
    """Run a command line with just this environment; an unexpected error is raised."""
    nothing_else: dict[str, str | None] = dict.fromkeys(os.environ)  # noqa: TID251  # the test's own
    with CliRunner().isolation(env={**nothing_else, **environment}) as (out, err, _):
        code = run(arguments)
        sys.stdout.flush()
        sys.stderr.flush()
        return Result(code, out.getvalue().decode(), err.getvalue().decode())


@contextmanager
def forgotten_logging() -> Iterator[None]:
    """Let no logger remember the logging that a command sets up for its process."""
    configure, forgetful = structlog.configure, {"cache_logger_on_first_use": False}
    with patch.object(structlog, "configure", lambda **options: configure(**{**options, **forgetful})):
        yield
    structlog.reset_defaults()
