"""The key files of a key rotation, each with mode 0600.

    wireguard.key           the key in use
    wireguard.key.next      a waiting key, which the registry does not name yet
    wireguard.key.next-ID   another waiting key; ID is a hash of the public key
    wireguard.key.old       the previous key, until the change is final
    wireguard.key.old-ID    another previous key, if there were several changes before

Each attempt to change the key makes a new key. An announced key is public: another member can
register it first, and then it is permanently unusable. But a transaction whose outcome is unknown
may still be mined. Therefore an announced key waits until the use of a newer one is final.

A crash at any point leaves the key in use in its file. A waiting key is on the disk before the
transaction is sent.
"""

import base64
import hashlib
import secrets
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import structlog

from dstack_vpn.adapters.store.private import create_private
from dstack_vpn.core.wireguard.keys import KEY_LENGTH, PrivateKey, PublicKey
from dstack_vpn.core.wireguard.x25519 import clamp, derive
from dstack_vpn.errors import DstackVpnError, FormatError, StoreError

_log = structlog.get_logger(component="node")

KEPT: Final = 16
"""The number of newest waiting keys that are always kept."""
PENDING: Final = 7 * 86_400.0
"""Seconds for which a waiting key is always kept. A transaction may be pending for so long."""


def next_of(path: Path) -> Path:
    """Return the path of the next key."""
    return path.with_name(path.name + ".next")


def old_of(path: Path) -> Path:
    """Return the path of the previous key."""
    return path.with_name(path.name + ".old")


def make_next(path: Path) -> tuple[PublicKey, Path]:
    """Make a waiting key and its file. Raises `DstackVpnError`."""
    _sweep(path)
    key = clamp(secrets.token_bytes(KEY_LENGTH))
    content = base64.b64encode(key.reveal()) + b"\n"
    public = derive(key)
    try:
        for file in (next_of(path), _named(next_of(path), public)):
            if create_private(file, content):
                return public, file
    except OSError as error:
        raise DstackVpnError(f"STATE_DIR: can't write a key beside {path}: {error.strerror}") from error
    raise AssertionError("a file for the new key exists already")


def forget(file: Path) -> None:
    """Remove a waiting key that was never announced. Absorbs errors: an unused file is harmless."""
    with suppress(OSError):
        file.unlink()


class FileKeyRing:
    """A `ports.KeyRing` around the file of the key in use."""

    def __init__(self, path: Path) -> None:
        self._path, self._next, self._old = path, next_of(path), old_of(path)

    def others(self) -> Mapping[PublicKey, PrivateKey]:
        """See `ports.KeyRing.others`."""
        found = {}
        for path in (*_family(self._next), *_family(self._old)):
            key = _read(path)
            if key is not None:
                found[derive(key)] = key
        return found

    def use(self, key: PublicKey) -> None:
        """See `ports.KeyRing.use`."""
        try:
            if (source := self._find(self._next, key)) is not None:
                self._keep_as(self._old)
            elif (source := self._find(self._old, key)) is not None:
                self._keep_as(self._next)
            else:
                return
            source.replace(self._path)
        except OSError as error:
            raise StoreError(
                f"STATE_DIR: can't write the new key to {self._path}: {error.strerror}"
            ) from error

    def settle(self) -> None:
        """See `ports.KeyRing.settle`. Previous keys and older waiting keys are removed."""
        since = self.made()
        for path in _family(self._old):
            with suppress(OSError):
                path.unlink()
        if since is None:
            return
        for path in _family(self._next):
            with suppress(OSError):
                if path.stat().st_mtime < since - PENDING:
                    path.unlink()

    def made(self) -> float | None:
        """See `ports.KeyRing.made`. Using a key renames its file, so its time stays."""
        try:
            return self._path.stat().st_mtime
        except OSError:
            return None

    def _find(self, base: Path, key: PublicKey) -> Path | None:
        for path in _family(base):
            private = _read(path)
            if private is not None and derive(private) == key:
                return path
        return None

    def _keep_as(self, base: Path) -> None:
        """Keep the key in use under another name as well, unless an earlier call has done so."""
        private = _read(self._path)
        if private is None or self._find(base, derive(private)) is not None:
            return
        if not base.exists():
            base.hardlink_to(self._path)
        else:
            _named(base, derive(private)).hardlink_to(self._path)


def _named(base: Path, key: PublicKey) -> Path:
    return base.with_name(f"{base.name}-{hashlib.sha256(key).hexdigest()[:16]}")


def _family(base: Path) -> Iterator[Path]:
    """Yield the possible files of this name, the plain one first."""
    yield base
    with suppress(OSError):
        yield from sorted(base.parent.glob(f"{base.name}-*"))


def _sweep(path: Path) -> None:
    """Remove old waiting keys beyond the limit. Absorbs errors."""
    with suppress(OSError):
        ages = sorted((file.stat().st_mtime, file) for file in _family(next_of(path)) if file.exists())
        newest = ages[-1][0] if ages else 0.0
        for made, file in ages[:-KEPT]:
            if made < newest - PENDING:
                file.unlink()


def _read(path: Path) -> PrivateKey | None:
    """Return the key in a file. None if the file is missing or invalid. Logs the latter."""
    try:
        return PrivateKey.parse(path.read_text().strip())
    except FileNotFoundError:
        return None
    except (OSError, FormatError, UnicodeDecodeError) as error:
        _log.error("key.unreadable", file=str(path), problem=type(error).__name__)
        return None
