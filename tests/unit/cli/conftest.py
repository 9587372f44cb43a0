"""A fixture that runs commands in this process, with an environment that the test sets."""

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
    """Run a command line; keyword arguments are the only settings in its environment."""
    for name in list(os.environ):  # noqa: TID251  # the test's own environment
        monkeypatch.delenv(name)
    # Port 9 has no listener: a command that contacts a chain fails with an error.
    monkeypatch.setenv("NETWORK", "local")
    monkeypatch.setenv("RPC_URL", "http://127.0.0.1:9")
    # A command configures logging for its process, and loggers keep that configuration. The next
    # test needs its own.
    monkeypatch.setattr(structlog, "configure", lambda **_: None)

    def call(*arguments: str, **environment: str) -> Ran:
        with monkeypatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            code = run(arguments)
        out, err = capsys.readouterr()
        return Ran(code, out, err)

    return call
