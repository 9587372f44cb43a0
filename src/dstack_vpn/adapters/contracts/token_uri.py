"""The ``endpoint`` member of a token URI that contains its JSON (RFC 2397).

Only ``data:application/json`` URIs are read; a token never causes a request. The minter chooses the
URI, so most invalid URIs only mean that there is no endpoint. A URI that is too long, and one with
an invalid endpoint, are reported to the operator.
"""

import base64
import binascii
import json
from typing import Final
from urllib.parse import unquote_to_bytes

from dstack_vpn.core.model import Malformed
from dstack_vpn.core.paths.peer_endpoint import PeerEndpoint
from dstack_vpn.errors import FormatError

MAX_URI: Final = 64 * 1024
"""The size limit in bytes; a longer URI is not parsed."""

_SCHEME: Final = b"data:application/json"


def endpoint_of(uri: bytes) -> PeerEndpoint | Malformed | None:
    """Return the endpoint in the URI's JSON object; None without one."""
    if len(uri) > MAX_URI:
        return Malformed(f"token URI: {len(uri)} bytes, of at most {MAX_URI}")
    document = _document(uri)
    try:
        content = None if document is None else json.loads(document)
    except (ValueError, RecursionError):  # not JSON, not UTF-8, or nested too deeply
        return None
    endpoint = content.get("endpoint") if isinstance(content, dict) else None
    if not isinstance(endpoint, str) or not endpoint:
        return None
    try:
        return PeerEndpoint.parse(endpoint)
    except FormatError as error:
        return Malformed(f"token URI: {error}")


def _document(uri: bytes) -> bytes | None:
    """Return the content of a ``data:application/json`` URI; None for any other URI."""
    header, comma, body = uri.partition(b",")
    media_type, *parameters = header.lower().split(b";")
    if not comma or media_type.strip() != _SCHEME:
        return None
    plain = unquote_to_bytes(body)
    if not parameters or parameters[-1].strip() != b"base64":
        return plain
    try:
        return base64.b64decode(plain, validate=True)
    except binascii.Error:
        return None
