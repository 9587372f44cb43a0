"""The ``endpoint`` member of a token URI that carries its JSON in itself (RFC 2397).

Only ``data:application/json`` URIs are read: nothing is ever fetched at a token's request. The URI is
whatever the minter wrote, so most ways of being wrong just mean that it names no endpoint. Only one that is
too long to be looked into, and one that names a bad endpoint, are worth telling the operator.
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
"""Bytes; a longer URI is not looked into."""

_SCHEME: Final = b"data:application/json"


def endpoint_of(uri: bytes) -> PeerEndpoint | Malformed | None:
    """The endpoint that the URI's JSON object names; None if it names none."""
    if len(uri) > MAX_URI:
        return Malformed(f"token URI: {len(uri)} bytes, of at most {MAX_URI}")
    document = _document(uri)
    try:
        content = None if document is None else json.loads(document)
    except (ValueError, RecursionError):  # no JSON, no UTF-8, or nested too deep
        return None
    endpoint = content.get("endpoint") if isinstance(content, dict) else None
    if not isinstance(endpoint, str) or not endpoint:
        return None
    try:
        return PeerEndpoint.parse(endpoint)
    except FormatError as error:
        return Malformed(f"token URI: {error}")


def _document(uri: bytes) -> bytes | None:
    """The bytes that a ``data:application/json`` URI carries; None for any other."""
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
