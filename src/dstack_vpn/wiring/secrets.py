"""The directories to which this process writes secrets: no other user may write to them."""

from collections.abc import Mapping
from pathlib import Path

from dstack_vpn.config import Settings
from dstack_vpn.config.private import exposure
from dstack_vpn.core.observe.check import Check, failed, passed
from dstack_vpn.errors import ConfigError


def of_node(settings: Settings) -> Mapping[str, Path]:
    """Return a node's directories by the setting that names them."""
    return {"STATE_DIR": settings.state_dir, "WIREGUARD_CONFIG": settings.wireguard_config.parent}


def refuse_exposed(folders: Mapping[str, Path]) -> None:
    """Raise `ConfigError` with all directories to which another user can write."""
    if problems := [f"{name}: {problem}" for name, problem in _problems(folders)]:
        raise ConfigError(problems)


def directories(settings: Settings) -> Check:
    """Check the directories for ``doctor``."""
    found = [(name, *problem.rpartition(": ")[::2]) for name, problem in _problems(of_node(settings))]
    if not found:
        return passed("secrets", "no other user can write to STATE_DIR or beside WIREGUARD_CONFIG")
    reason = "; ".join(f"{name}: {what}" for name, what, _ in found)
    return failed("secrets", reason, "; ".join(dict.fromkeys(advice for *_, advice in found)))


def _problems(folders: Mapping[str, Path]) -> list[tuple[str, str]]:
    found: dict[str, str] = {}
    for name, path in folders.items():
        if (problem := exposure(path)) is not None:
            found.setdefault(problem, name)  # the file may be in STATE_DIR: report it once
    return [(name, problem) for problem, name in found.items()]
