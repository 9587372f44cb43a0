"""The files of a key that is changed: the one in use, the next one, and the one before, each 0600.

A crash at any point leaves the key in use in its file. ``next`` is there before the chain is told of it, and
``old`` until that can't be undone any more.
"""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import structlog

from dstack_vpn.core.keys import PrivateKey, PublicKey
from dstack_vpn.core.x25519 import derive
from dstack_vpn.errors import FormatError, StoreError

_log = structlog.get_logger(component="node")


def next_of(path: Path) -> Path:
    """Where the next key waits."""
    return path.with_name(path.name + ".next")


def old_of(path: Path) -> Path:
    """Where the key before is kept."""
    return path.with_name(path.name + ".old")


class FileKeyRing:
    """Implements `ports.KeyRing` around the file of the key in use."""

    def __init__(self, path: Path) -> None:
        self._path, self._next, self._old = path, next_of(path), old_of(path)

    def others(self) -> Mapping[PublicKey, PrivateKey]:
        """See `ports.KeyRing.others`."""
        found = {}
        for path in (self._next, self._old):
            key = _read(path)
            if key is not None:
                found[derive(key)] = key
        return found

    def use(self, key: PublicKey) -> None:
        """See `ports.KeyRing.use`."""
        try:
            for source, spare in ((self._next, self._old), (self._old, self._next)):
                private = _read(source)
                if private is not None and derive(private) == key:
                    spare.unlink(missing_ok=True)
                    spare.hardlink_to(self._path)
                    source.replace(self._path)
                    return
        except OSError as error:
            raise StoreError(
                f"STATE_DIR: can't keep the new key in {self._path}: {error.strerror}"
            ) from error

    def settle(self) -> None:
        """See `ports.KeyRing.settle`."""
        with suppress(OSError):
            self._old.unlink(missing_ok=True)

    def made(self) -> float | None:
        """See `ports.KeyRing.made`: taking a key moves its file, which leaves the time as it is."""
        try:
            return self._path.stat().st_mtime
        except OSError:
            return None


def _read(path: Path) -> PrivateKey | None:
    """The key in a file; None if there is no file, or no key in it: the log says so."""
    try:
        return PrivateKey.parse(path.read_text().strip())
    except FileNotFoundError:
        return None
    except (OSError, FormatError, UnicodeDecodeError) as error:
        _log.error("key.unreadable", file=str(path), problem=type(error).__name__)
        return None
