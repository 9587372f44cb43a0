"""Removal of secrets from texts that come from outside.

A text is redacted when it enters, before it is cut or stored, so that no part of a secret survives
a cut. A secret is found in each form in which a server may quote it: plain, percent-encoded,
decoded, escaped for JSON or HTML, and in base64 (an ``Authorization`` header).
"""

import base64
import html
import json
import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import quote, quote_plus, unquote, unquote_plus

HIDDEN: Final = "***"
WINDOW: Final = 16 * 1024
"""Characters of an untrusted text that are used."""


class Redactor:
    """Replaces secrets in texts, in all their forms, regardless of case."""

    def __init__(self, secrets: Iterable[str]) -> None:
        self.forms = tuple(
            sorted(
                {form for secret in secrets for form in forms(secret)}, key=lambda form: (-len(form), form)
            )
        )
        self._pattern = re.compile("|".join(map(re.escape, self.forms)) or r"(?!)", re.IGNORECASE)
        self._longest = max(map(len, self.forms), default=0)

    def redact(self, text: str) -> str:
        """Return the text without secrets."""
        return self._pattern.sub(HIDDEN, text)

    def beginning(self, text: str) -> str:
        """Return the beginning of a text without secrets, and without a secret that was cut."""
        if len(text) <= WINDOW:
            return self.redact(text)
        return self.redact(text[: WINDOW + self._longest])[: WINDOW - self._longest]


def forms(secret: str) -> set[str]:
    """Return the forms in which a text may quote a secret."""
    found: set[str] = set()
    for plain in {secret, unquote(secret), unquote_plus(secret)} - {""}:
        raw = plain.encode("utf-8", "surrogateescape")
        found |= {plain, quote(raw, safe=""), quote(raw), quote_plus(raw)}
        found |= {html.escape(plain), json.dumps(plain)[1:-1], plain.replace("/", "\\/")}
        for coded in (base64.b64encode(raw).decode(), base64.urlsafe_b64encode(raw).decode()):
            found |= {coded, coded.rstrip("=")}
    return found - {""}
