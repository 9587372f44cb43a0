"""JSON-RPC 2.0 as Ethereum endpoints speak it: requests to text, text to replies and notifications.

Pure, and suspicious: an endpoint may be a load balancer's error page, a captive portal or an attacker. What
comes out of here has the right types; whatever can't be brought into them raises `EndpointError`. What the
errors *mean* is `faults`' business, what the results hold is `fields`'.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from dstack_vpn.adapters.chain.faults import Fault
from dstack_vpn.adapters.redact import WINDOW, Redactor
from dstack_vpn.errors import EndpointError

Json: TypeAlias = Any
"""The type of `json.loads` results. ``Any``, because every use of it checks the type that it needs."""

MAX_MESSAGE: Final = 64 * 2**20
"""Bytes. A block of logs, or a page of tokens, exceeds the usual limit of 1 MiB."""

NOTHING_SECRET: Final = Redactor(())

EXCERPT: Final = 120
"""Characters of an endpoint's own words that we repeat in an error."""


@dataclass(frozen=True, slots=True)
class Request:
    """One call."""

    id: int
    method: str
    params: Sequence[Json] = ()

    def to_json(self) -> dict[str, Json]:
        """The request object of the specification."""
        return {"jsonrpc": "2.0", "id": self.id, "method": self.method, "params": self.params}


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to one call; ``id`` is None if the endpoint could not name the call."""

    id: int | None
    result: Json = None
    fault: Fault | None = None


@dataclass(frozen=True, slots=True)
class Notification:
    """Something that a subscription delivered."""

    subscription: str
    result: Json


Message: TypeAlias = Reply | Notification


def encode(requests: Sequence[Request]) -> str:
    """One request as an object, several as a batch."""
    objects = [request.to_json() for request in requests]
    return json.dumps(objects[0] if len(objects) == 1 else objects, separators=(",", ":"))


def decode(text: str | bytes, redactor: Redactor = NOTHING_SECRET) -> list[Message]:
    """Every message in a frame or a body; raises `EndpointError` for anything that is not JSON-RPC.

    ``redactor`` takes secrets out of every text that the endpoint says in its own words.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise EndpointError(f"the endpoint did not answer in JSON: {excerpt(text, redactor)}") from None
    objects = document if isinstance(document, list) else [document]
    return [_message(item, redactor) for item in objects]


def _message(item: Json, redactor: Redactor) -> Message:
    if not isinstance(item, dict):
        raise EndpointError("the endpoint answered JSON that is no JSON-RPC message")
    if "method" in item:
        return _notification(item)
    number = item.get("id")
    if isinstance(number, str) and number.isascii() and number.isdigit() and len(number) < 19:
        number = int(number)  # some proxies echo ids as texts
    if number is not None and type(number) is not int:
        raise EndpointError("the endpoint answered with an id that we never sent")
    if item.get("error") is not None:
        return Reply(number, fault=_fault(item["error"], redactor))
    if "result" not in item:
        raise EndpointError("the endpoint answered with neither a result nor an error")
    return Reply(number, item["result"])


def _notification(item: dict[str, Json]) -> Notification:
    params = item.get("params")
    if item["method"] != "eth_subscription" or not isinstance(params, dict):
        raise EndpointError("the endpoint sent a notification that is no eth_subscription")
    subscription = params.get("subscription")
    if not isinstance(subscription, str) or "result" not in params:
        raise EndpointError("the endpoint sent an eth_subscription without id or result")
    return Notification(subscription, params["result"])


def _fault(error: Json, redactor: Redactor) -> Fault:
    """An error member, which some endpoints send as a bare text."""
    if isinstance(error, str):
        return Fault(0, redactor.beginning(error))
    if not isinstance(error, dict):
        raise EndpointError("the endpoint answered with an error of an unknown form")
    code, message = error.get("code"), error.get("message")
    return Fault(
        code if type(code) is int else 0,
        redactor.beginning(message) if isinstance(message, str) else "",
        revert := _revert_data(error.get("data")),
        "" if revert is not None else redactor.beginning(_detail(error.get("data"))),
    )


def _detail(data: Json) -> str:
    """Return the endpoint's data beside the message."""
    if isinstance(data, dict):
        data = data.get("message", data.get("reason", data.get("details")))
    return data if isinstance(data, str) else ""


def _revert_data(data: Json) -> bytes | None:
    """The ABI-encoded error: bare, nested in an object, or behind a word that some clients put first."""
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
    """The beginning of a foreign text in printable ASCII, for an error or a log line."""
    words = text[: 4 * WINDOW].decode("utf-8", "replace") if isinstance(text, bytes) else text
    words = redactor.beginning(words)
    plain = " ".join("".join(c if " " <= c <= "~" else " " for c in words).split())
    return plain if len(plain) <= EXCERPT else plain[:EXCERPT] + "..."
