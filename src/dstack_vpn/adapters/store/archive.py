"""The wg-quick file and its backups.

The file is written atomically (a new file is synced and renamed over the old one), readable by root
only, and only if the text differs. A file that is not ours is never overwritten. Our file equals
one of the backups, or has our first line and only content that `core.wireguard.config_file` writes
(in particular, no hook). The last `KEEP` versions stay in the state directory. A file there pins
one of them.
"""

import asyncio
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

from dstack_vpn.adapters.store.advice import advice
from dstack_vpn.adapters.store.private import write_private
from dstack_vpn.core.wireguard import config_file as wgconf
from dstack_vpn.errors import FormatError, StoreError

_P = ParamSpec("_P")
_T = TypeVar("_T")

KEEP: Final = 10
"""The number of backups."""

_NAME: Final = re.compile(r"[0-9]{8}T[0-9]{6}\.[0-9]{3}Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class Backup:
    """One version of the file."""

    name: str
    """The UTC time of writing, such as ``20261123T121500.123Z``, which sorts by time."""
    path: Path


class FileArchive:
    """See `ports.ConfigArchive`. It also serves the ``config`` commands."""

    def __init__(self, config: Path, state_dir: Path) -> None:
        self._config = config
        self._backups = state_dir / "backups"
        self._pin = state_dir / "pinned.conf"
        self._last: str | None = None
        self.written = 0
        """The number of backups since the start."""

    async def write(self, text: str) -> None:
        """See `ports.ConfigArchive.write`."""
        if text == self._last:
            return
        await asyncio.to_thread(_translated, self._write, text)
        self._last = text

    async def pinned(self) -> str | None:
        """See `ports.ConfigArchive.pinned`."""
        try:
            return self._pin.read_text()
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise StoreError(f"{self._pin}: {error}") from error

    def is_foreign(self) -> bool:
        """Return True if the file was not written by dstack-vpn. False if it is unreadable."""
        try:
            return self._config.is_file() and not self._is_ours(self._config.read_bytes())
        except OSError:
            return False

    # -- for the commands --------------------------------------------------------------------------

    def list(self) -> list[Backup]:
        """Return the backups, the newest first."""
        if not self._backups.is_dir():
            return []
        names = sorted(
            (p.stem for p in self._backups.glob("*.conf") if _NAME.fullmatch(p.stem)), reverse=True
        )
        return [Backup(name, self._backups / f"{name}.conf") for name in names]

    def read(self, name: str) -> str:
        """Return a backup's text. ``current`` is the file itself. Raises `StoreError`."""
        if name == "current":
            if not self._config.exists():
                raise StoreError(
                    f"{self._config} does not exist yet: the daemon writes it when it knows its peers "
                    "(INTERFACE and WIREGUARD_CONFIG define its path)"
                )
            return _translated(self._config.read_text)
        found = [backup for backup in self.list() if backup.name == name]
        if not found:
            raise StoreError(f"backup {name!r} does not exist: 'dstack-vpn config list' lists the backups")
        return _translated(found[0].path.read_text)

    def pin(self, name: str) -> None:
        """Pin a backup. A running daemon applies it within a second. Raises `StoreError`."""
        _translated(write_private, self._pin, self.read(name))

    def resume(self) -> bool:
        """Remove the pin. Return False if it was missing."""
        if not self._pin.exists():
            return False
        _translated(self._pin.unlink)
        return True

    @property
    def is_pinned(self) -> bool:
        """True if a backup is pinned."""
        return self._pin.exists()

    # -- in a thread -------------------------------------------------------------------------------

    def _write(self, text: str) -> None:
        if self._config.is_file():
            present = self._config.read_bytes()
            if present == text.encode():
                return
            if not self._is_ours(present):
                raise StoreError(
                    f"{self._config} was not written by dstack-vpn, and is not changed: move it away, or "
                    "set WIREGUARD_CONFIG to another path"
                )
        write_private(self._config, text)
        self._backups.mkdir(parents=True, exist_ok=True, mode=0o700)
        now = time.time_ns()
        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(now // 10**9))
        write_private(self._backups / f"{stamp}.{now // 10**6 % 1000:03}Z.conf", text)
        self.written += 1
        for old in self.list()[KEEP:]:
            old.path.unlink()

    def _is_ours(self, content: bytes) -> bool:
        if not content.strip():
            return True  # an empty file may be replaced
        if self._last is not None and content == self._last.encode():
            return True
        if any(backup.path.read_bytes() == content for backup in self.list()):
            return True
        try:
            text = content.decode()
            wgconf.parse(text)
        except (UnicodeDecodeError, FormatError):
            return False
        return text.startswith(wgconf.HEADER)


def _translated(work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    try:
        return work(*args, **kwargs)
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"{error}{advice(error)}") from error
