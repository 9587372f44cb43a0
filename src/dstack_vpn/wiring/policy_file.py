"""POLICY_FILE: a policy of the operator, for registries that can't have one or to restrict one."""

import asyncio
from pathlib import Path
from typing import Final

import structlog

from dstack_vpn.core.chain.contract import MAX_POLICY
from dstack_vpn.core.policy.document import PolicyDocument, parse_policy
from dstack_vpn.daemon.peers.members import Members
from dstack_vpn.errors import ConfigError, FormatError

_log = structlog.get_logger(component="policy")

CHECK: Final = 1.0
"""Seconds between checks of the file."""


def read_policy_file(path: Path | None) -> PolicyDocument | None:
    """Return the policy in a file, None without a file. Raises `ConfigError`."""
    if path is None:
        return None
    try:
        with path.open("rb") as file:
            content = file.read(MAX_POLICY + 1)
        return parse_policy(content.decode("utf-8"))
    except OSError as error:
        problem = f"POLICY_FILE: can't read {path}: {error.strerror}"
    except UnicodeDecodeError:
        problem = f"POLICY_FILE: {path} is not UTF-8"
    except FormatError as error:
        problem = f"POLICY_FILE: {path}: {error}"
    raise ConfigError([problem])


class PolicyFileWatch:
    """Follows changes of the file. A file that can't be used changes nothing."""

    def __init__(self, path: Path, members: Members) -> None:
        self._path, self._members = path, members
        self._seen = _version(path)
        self.problem: str | None = None
        """The reason that the file can't be used, or None."""

    async def run(self) -> None:
        """Check the file until cancelled."""
        while True:
            await asyncio.sleep(CHECK)
            self.check()

    def check(self) -> None:
        """Use the file's policy if the file has changed."""
        version = _version(self._path)
        if version == self._seen:
            return
        self._seen = version
        try:
            document = read_policy_file(self._path)
        except ConfigError as error:
            self.problem = f"{error}; the last good policy of the file stays in force"
            _log.error("policy.file_refused", problem=str(error))
            return
        assert document is not None
        self.problem = None
        _log.info("policy.file_read", grants=len(document.grants))
        self._members.use_policy_file(document)


def _version(path: Path) -> tuple[int, int, int] | None:
    """Return what changes if the file does; None if it is missing."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
