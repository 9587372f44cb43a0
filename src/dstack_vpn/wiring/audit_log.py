"""The audit log, for the daemon and the commands."""

from contextlib import suppress
from typing import Final

from dstack_vpn.adapters.clock import SystemClock
from dstack_vpn.adapters.store.audit_log import SqliteAuditLog
from dstack_vpn.config import Settings
from dstack_vpn.core.observe.audit_chain import AuditRecord, Scalar
from dstack_vpn.errors import StoreError

__all__ = ["FILE", "SqliteAuditLog", "audit_log_of", "record"]

FILE: Final = "audit.sqlite"
"""The file name in the state directory."""


def audit_log_of(settings: Settings) -> SqliteAuditLog:
    """Return this machine's audit log."""
    return SqliteAuditLog(settings.state_dir / FILE)


def record(settings: Settings, kind: str, **body: Scalar) -> None:
    """Record a command's action if this machine has a state directory; others keep no audit log.

    Absorbs `StoreError`: the action is done, and the command must report it.
    """
    if settings.state_dir.is_dir():
        with suppress(StoreError):
            audit_log_of(settings).append([AuditRecord(SystemClock().now(), kind, body)])
