"""A support bundle: one archive with the data for finding a fault, without secrets.

All content passes through one scrubber. It removes the secrets of this machine's configuration in
every form in which a text may contain them, and any value in a place where secrets usually stand.
"""

import base64
import io
import re
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from dstack_vpn.adapters import redact
from dstack_vpn.adapters.redact import HIDDEN
from dstack_vpn.errors import StoreError

_SHORTEST: Final = 6
"""Characters of the shortest secret that is removed. Shorter ones would match too much text."""
_SUSPECTS: Final = (
    re.compile(r"(?im)^(\s*(?:private|preshared)_?key\s*[=:]\s*)\S.*$"),
    re.compile(r"(?i)(\"(?:private_key|preshared_key|token|password|authorization)\"\s*:\s*)\"[^\"]*\""),
    re.compile(r"(?i)((?:authorization:\s*)?bearer\s+)[A-Za-z0-9._~+/=-]+"),
    re.compile(r"(?i)\b([a-z][a-z0-9+.-]*://)[^\s/@\"']+@"),
    re.compile(r"(?im)^(\s*(?:export\s+)?[A-Z_]*(?:PRIVATE_KEY|API_TOKEN|PASSWORD|SECRET)\s*=\s*)\S.*$"),
)
"""Places where secrets usually stand. The first group is kept."""


class Scrubber:
    """Removes secrets from texts."""

    def __init__(self, secrets: Iterable[str]) -> None:
        forms = {form for secret in secrets for form in _forms(secret)}
        # Longest first: replacing a shorter form first could leave a part of a longer one.
        self._forms = sorted((f for f in forms if len(f) >= _SHORTEST), key=len, reverse=True)

    def scrub(self, text: str) -> str:
        """Return the text without secrets."""
        for form in self._forms:
            text = text.replace(form, HIDDEN)
        for suspect in _SUSPECTS:
            text = suspect.sub(lambda found: f"{found[1]}{HIDDEN}", text)
        return text


def _forms(secret: str) -> set[str]:
    """Return the forms of a secret in a text: plain, quoted, base64 and hexadecimal."""
    raw = {secret.encode()}
    if re.fullmatch(r"(?:0x)?(?:[0-9a-fA-F]{2})+", secret, re.ASCII):
        raw.add(bytes.fromhex(secret.removeprefix("0x")))
    if re.fullmatch(r"[A-Za-z0-9+/]{43}=", secret, re.ASCII):
        raw.add(base64.b64decode(secret))
    forms = {*redact.forms(secret), secret.removeprefix("0x")}
    for data in raw:
        plain, safe = base64.b64encode(data).decode(), base64.urlsafe_b64encode(data).decode()
        forms |= {plain, safe, plain.rstrip("="), safe.rstrip("="), data.hex(), data.hex().upper()}
    return forms


def write(path: Path, files: Mapping[str, str], scrubber: Scrubber) -> None:
    """Write the archive for its owner only, never over an existing file. Raises `StoreError`."""
    try:
        with path.open("xb") as made:
            path.chmod(0o600)
            with tarfile.open(fileobj=made, mode="w:gz") as archive:
                for name, text in sorted(files.items()):
                    content = scrubber.scrub(text).encode()
                    entry = tarfile.TarInfo(f"dstack-vpn-support/{name}")
                    entry.size, entry.mode = len(content), 0o600
                    archive.addfile(entry, io.BytesIO(content))
    except FileExistsError:
        raise StoreError(f"{path} exists already: name another file with --output") from None
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from error
