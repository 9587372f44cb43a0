"""Commands in this process: their exit code and what they print, with an environment of the test's own."""

import os
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import structlog

from dstack_vpn.cli import run


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str


Cli = Callable[..., Ran]


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run a command line; keyword arguments are the environment, which holds nothing else of ours."""
    for name in list(os.environ):  # noqa: TID251  # the test's own environment
        monkeypatch.delenv(name)
    # Nobody listens there: whoever tries to talk to a chain says so.
    monkeypatch.setenv("NETWORK", "local")
    monkeypatch.setenv("RPC_URL", "http://127.0.0.1:9")
    # A command sets logging up for its process, and loggers remember that: here the next test wants
    # its own.
    monkeypatch.setattr(structlog, "configure", lambda **_: None)

    def call(*arguments: str, **environment: str) -> Ran:
        with monkeypatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            code = run(arguments)
        out, err = capsys.readouterr()
        return Ran(code, out, err)

    return call
