"""A JSON-RPC 2.0 codec for Ethereum endpoints: encodes requests, decodes replies and notifications.

It does no IO. The input may come from a load balancer's error page, a captive portal or an
attacker. Decoded messages have checked types, and any other input raises `EndpointError`. `faults`
classifies the errors, and `fields` parses the results.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from dstack_vpn.adapters.chain.faults import Fault
from dstack_vpn.adapters.redact import WINDOW, Redactor
from dstack_vpn.errors import EndpointError

Json: TypeAlias = Any
"""The type of `json.loads` results. It is ``Any`` because every use checks the type that it
needs."""

MAX_MESSAGE: Final = 64 * 2**20
"""The longest message in bytes. A block of logs or a page of tokens may exceed the usual 1 MiB."""

NOTHING_SECRET: Final = Redactor(())

EXCERPT: Final = 120
"""The number of characters of an endpoint's message that an error quotes."""


@dataclass(frozen=True, slots=True)
class Request:
    """One call."""

    id: int
    method: str
    params: Sequence[Json] = ()

    def to_json(self) -> dict[str, Json]:
        """Return the request object of the specification."""
        return {"jsonrpc": "2.0", "id": self.id, "method": self.method, "params": self.params}


@dataclass(frozen=True, slots=True)
class Response:
    """The reply to one call. ``id`` None: the endpoint could not identify the call."""

    id: int | None
    result: Json = None
    fault: Fault | None = None


@dataclass(frozen=True, slots=True)
class Notification:
    """A message of a subscription."""

    subscription: str
    result: Json


Message: TypeAlias = Response | Notification


def encode(requests: Sequence[Request]) -> str:
    """Encode one request as an object, several as a batch."""
    return joined([encode_one(request) for request in requests])


def encode_one(request: Request) -> str:
    """Encode one request in ASCII."""
    return json.dumps(request.to_json(), separators=(",", ":"))


def joined(texts: Sequence[str]) -> str:
    """Return one encoded request as it is, several as a batch."""
    return texts[0] if len(texts) == 1 else f"[{','.join(texts)}]"


def decode(text: str | bytes, redactor: Redactor = NOTHING_SECRET) -> list[Message]:
    """Return the messages of a frame or a body.

    Raises `EndpointError` for input that is not JSON-RPC. ``redactor`` removes secrets from every
    text that the endpoint sends.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise EndpointError(f"the endpoint's reply is not JSON: {excerpt(text, redactor)}") from None
    objects = document if isinstance(document, list) else [document]
    return [_message(item, redactor) for item in objects]


def _message(item: Json, redactor: Redactor) -> Message:
    if not isinstance(item, dict):
        raise EndpointError("the endpoint replied with JSON that is not a JSON-RPC message")
    if "method" in item:
        return _notification(item)
    number = item.get("id")
    if isinstance(number, str) and number.isascii() and number.isdigit() and len(number) < 19:
        number = int(number)  # some proxies return ids as strings
    if number is not None and type(number) is not int:
        raise EndpointError("the endpoint replied with an id that was never sent")
    if item.get("error") is not None:
        return Response(number, fault=_fault(item["error"], redactor))
    if "result" not in item:
        raise EndpointError("the endpoint replied with neither a result nor an error")
    return Response(number, item["result"])


def _notification(item: dict[str, Json]) -> Notification:
    params = item.get("params")
    if item["method"] != "eth_subscription" or not isinstance(params, dict):
        raise EndpointError("the endpoint sent a notification that is not an eth_subscription")
    subscription = params.get("subscription")
    if not isinstance(subscription, str) or "result" not in params:
        raise EndpointError("the endpoint sent an eth_subscription without an id or a result")
    return Notification(subscription, params["result"])


def _fault(error: Json, redactor: Redactor) -> Fault:
    """Parse the error member. Some endpoints send it as a string."""
    if isinstance(error, str):
        return Fault(0, redactor.beginning(error))
    if not isinstance(error, dict):
        raise EndpointError("the endpoint replied with an error that is neither an object nor a string")
    code, message = error.get("code"), error.get("message")
    return Fault(
        code if type(code) is int else 0,
        redactor.beginning(message) if isinstance(message, str) else "",
        revert := _revert_data(error.get("data")),
        "" if revert is not None else redactor.beginning(_detail(error.get("data"))),
    )


def _detail(data: Json) -> str:
    """Return the text of the ``data`` member."""
    if isinstance(data, dict):
        data = data.get("message", data.get("reason", data.get("details")))
    return data if isinstance(data, str) else ""


def _revert_data(data: Json) -> bytes | None:
    """Return the ABI-encoded error of the ``data`` member, or None.

    It may be a plain string, nested in an object, or follow a word that some clients prepend.
    """
    if isinstance(data, dict):
        data = data.get("data", data.get("result"))
    if not isinstance(data, str):
        return None
    digits = data.removeprefix("Reverted ").removeprefix("0x")
    try:
        return bytes.fromhex(digits)
    except ValueError:
        return None


def excerpt(text: str | bytes, redactor: Redactor = NOTHING_SECRET) -> str:
    """Return the beginning of an untrusted text in printable ASCII, for an error or the log."""
    words = text[: 4 * WINDOW].decode("utf-8", "replace") if isinstance(text, bytes) else text
    words = redactor.beginning(words)
    plain = " ".join("".join(c if " " <= c <= "~" else " " for c in words).split())
    return plain if len(plain) <= EXCERPT else plain[:EXCERPT] + "..."
