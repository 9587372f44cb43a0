"""The audit log: the daemon's part in it, and that of the commands."""

from contextlib import suppress
from typing import Final

from dstack_vpn.adapters.clock import SystemClock
from dstack_vpn.adapters.store.audit_log import SqliteAuditLog
from dstack_vpn.config import Settings
from dstack_vpn.core.observe.audit_chain import AuditRecord, Scalar
from dstack_vpn.errors import StoreError

__all__ = ["FILE", "SqliteAuditLog", "ledger_of", "record"]

FILE: Final = "audit.sqlite"
"""In the state directory."""


def ledger_of(settings: Settings) -> SqliteAuditLog:
    """The audit log on this machine."""
    return SqliteAuditLog(settings.state_dir / FILE)


def record(settings: Settings, kind: str, **body: Scalar) -> None:
    """Write down what a command has done, on a machine that has a state directory; others keep no audit log.

    Absorbs `StoreError`: what was done is done, and must be told.
    """
    if settings.state_dir.is_dir():
        with suppress(StoreError):
            ledger_of(settings).append([AuditRecord(SystemClock().now(), kind, body)])
