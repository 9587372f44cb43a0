"""The settings of the daemon that runs on this machine, for the commands that query it.

A shell does not have the daemon's environment. The daemon therefore keeps the texts of its settings
in its state directory while it runs, in a file that only its user can read. For a secret it keeps
the path of its file.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import structlog

from dstack_vpn.adapters.store.lock import is_locked
from dstack_vpn.adapters.store.private import write_private
from dstack_vpn.config import Settings
from dstack_vpn.errors import StoreError

FILE: Final = "settings.json"
"""The file name in the state directory."""
_log = structlog.get_logger(component="config")


@contextmanager
def published(settings: Settings) -> Iterator[None]:
    """Publish the settings for commands. Absorbs a failure to write: it is a convenience."""
    path = settings.state_dir / FILE
    texts = {**settings.texts, "STATE_DIR": str(settings.state_dir.absolute())}
    try:
        write_private(path, json.dumps(texts))
    except (OSError, StoreError) as error:
        _log.info("config.not_published", reason=str(error))
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def settings_of(state_dir: Path) -> dict[str, str]:
    """Return the running daemon's settings by variable; empty if none runs. Raises `StoreError`."""
    if not is_locked(state_dir):
        return {}
    path = state_dir / FILE
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise StoreError(f"the running daemon's settings can't be read: {path}: {error.strerror}") from error
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not all(isinstance(text, str) for text in found.values()):
        raise StoreError(f"{path} is malformed: restart the daemon, or remove the file")
    return found
