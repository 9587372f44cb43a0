"""The content of a support bundle: each part is collected separately and can fail alone."""

import asyncio
import base64
import json
import platform
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Final

from dstack_vpn import __version__
from dstack_vpn.adapters.bundle import Scrubber, write
from dstack_vpn.config import OPTIONS, Settings
from dstack_vpn.config.settings import Secret
from dstack_vpn.core.wireguard.keys import PrivateKey
from dstack_vpn.errors import DstackVpnError
from dstack_vpn.wiring.audit_log import audit_log_of
from dstack_vpn.wiring.doctor import examine
from dstack_vpn.wiring.rpc import rpc_urls

RECORDS: Final = 2_000
"""The number of the newest audit records that are included."""
LOG: Final = 8 << 20
"""The limit of bytes from the end of a log file."""
_PROGRAMS: Final = {
    "addresses.txt": ("ip", "-details", "address"),
    "routes.txt": ("ip", "route", "show", "table", "all"),
    "rules.txt": ("ip", "rule"),
    "sockets.txt": ("ss", "-lntup"),
    "firewall.txt": ("nft", "list", "ruleset"),
    "journal.txt": ("journalctl", "--unit=dstack-vpn", "--lines=5000", "--no-pager", "--output=cat"),
}

Fetch = Callable[[str], dict[str, Any]]
"""Returns a running daemon's reply for a path; raises `AdminError`."""


def make(path: Path, settings: Settings, logs: Sequence[Path], fetch: Fetch) -> int:
    """Write the archive; return the number of its files. Raises `StoreError`."""
    files = {name: _collect(part) for name, part in _parts(settings, logs, fetch)}
    write(path, files, Scrubber(_secrets(settings)))
    return len(files)


def _parts(settings: Settings, logs: Sequence[Path], fetch: Fetch) -> Iterator[tuple[str, Callable[[], str]]]:
    yield "version.json", _version
    yield "settings.json", partial(_settings, settings)
    yield "doctor.json", partial(_doctor, settings)
    for name in ("health", "stats", "version"):
        yield f"daemon-{name}.json", partial(_daemon, fetch, f"/{name}")
    for name, command in _PROGRAMS.items():
        yield name, partial(_run, command)
    yield "wg-quick.conf", settings.wireguard_config.read_text
    yield "audit.jsonl", partial(_audit, settings)
    for number, log in enumerate(logs):
        yield f"log-{number}-{log.name}", partial(_tail, log)


def _collect(part: Callable[[], str]) -> str:
    """Return a part's text, or the reason that it is not available."""
    try:
        return part()
    except (DstackVpnError, OSError, ValueError) as error:
        return f"not available: {error}\n"


def _secrets(settings: Settings) -> Iterator[str]:
    """Yield all secrets of the configuration."""
    for option in OPTIONS:
        match getattr(settings, option.key, None):
            case Secret() as secret:
                yield secret.reveal()
            case PrivateKey() as key:
                yield base64.b64encode(key.reveal()).decode()
    for url in rpc_urls(settings):
        yield from url.secrets


def _version() -> str:
    found = {"version": __version__, "python": platform.python_version(), "system": platform.platform()}
    return json.dumps(found, indent=1)


def _settings(settings: Settings) -> str:
    """Return the settings as JSON: a secret as "(set)", an RPC endpoint without credentials."""
    found: dict[str, Any] = {}
    for option in OPTIONS:
        value = getattr(settings, option.key, None)
        if option.secret:
            found[option.name] = None if value is None else "(set)"
        elif option.name == "RPC_URL":
            found[option.name] = [url.way for url in rpc_urls(settings)]
        else:
            found[option.name] = value if isinstance(value, int | float | bool | None) else str(value)
    return json.dumps(found, indent=1)


def _doctor(settings: Settings) -> str:
    checks = asyncio.run(examine(settings, {}, lambda _: None))
    return json.dumps([asdict(check) for check in checks], indent=1)


def _daemon(fetch: Fetch, path: str) -> str:
    return json.dumps(fetch(path), indent=1)


def _audit(settings: Settings) -> str:
    audit_log = audit_log_of(settings)
    if not audit_log.exists:
        return ""
    records = islice(audit_log.read(after=max(audit_log.end().number - RECORDS, 0)), RECORDS)
    lines = ([r.number, r.note.at, r.note.kind, dict(r.note.body)] for r in records)
    return "".join(f"{json.dumps(line)}\n" for line in lines)


def _tail(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - LOG, 0))
        return file.read().decode(errors="replace")


def _run(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{' '.join(command)}: {error}\n"
    return done.stdout + done.stderr
