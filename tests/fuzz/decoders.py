"""The decoders of outside bytes that are fuzzed, each with the only errors that may escape it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tests.fuzz import composed

from dstack_vpn.adapters.chain import fields, jsonrpc
from dstack_vpn.adapters.chain.url import RpcUrl
from dstack_vpn.adapters.contracts.abi import Reader
from dstack_vpn.adapters.contracts.token_uri import endpoint_of
from dstack_vpn.adapters.device import netlink, uapi, wgnetlink
from dstack_vpn.adapters.dns import messages
from dstack_vpn.config import parsers
from dstack_vpn.core import wgconf
from dstack_vpn.core.reach import Reach
from dstack_vpn.core.tdx import Quote
from dstack_vpn.errors import ConfigError, DeviceError, EndpointError, FormatError


@dataclass(frozen=True, slots=True)
class Decoder:
    """What to feed, and what it may raise."""

    feed: Callable[[bytes], object]
    errors: tuple[type[Exception], ...]


def _text(parse: Callable[[str], object]) -> Callable[[bytes], object]:
    return lambda data: parse(data.decode("utf-8", "replace"))


def _abi(data: bytes) -> None:
    reader = Reader(data)
    for base in reader.tuples(0, 0):
        reader.blob(base, base)


def _log(data: bytes) -> None:
    for message in jsonrpc.decode(data):
        if isinstance(message, jsonrpc.Notification):
            fields.parse_log(message.result)


def _uapi(data: bytes) -> None:
    parser = uapi.GetParser()
    parser.feed(data)
    parser.state()


def _netlink(data: bytes) -> None:
    for message in netlink.parse_messages(data):
        for _, value in netlink.parse_generic(message.payload):
            list(netlink.parse_attributes(value))


DECODERS: Final = {
    "abi": Decoder(_abi, (FormatError,)),
    "jsonrpc": Decoder(jsonrpc.decode, (EndpointError,)),
    "log": Decoder(_log, (EndpointError, FormatError)),
    "uapi": Decoder(_uapi, (DeviceError,)),
    "uapi-status": Decoder(lambda data: uapi.refusal(uapi.parse_status(data)), (DeviceError,)),
    "netlink": Decoder(_netlink, (DeviceError,)),
    "dump": Decoder(lambda data: wgnetlink.DumpParser().feed(memoryview(data)), (DeviceError,)),
    "dns": Decoder(messages.parse, (FormatError,)),
    "wgconf": Decoder(_text(wgconf.parse), (FormatError,)),
    "urls": Decoder(_text(parsers.urls), (ValueError,)),
    "endpoints": Decoder(_text(parsers.endpoints), (ValueError,)),
    "relay-listen": Decoder(_text(parsers.relay_listen), (ValueError,)),
    "event": Decoder(composed.contract_log, (EndpointError,)),
    "state": Decoder(composed.contract_state, ()),
    "frames": Decoder(composed.relay_frames, ()),
    "settings": Decoder(composed.settings, (ConfigError,)),
    "toml": Decoder(composed.toml_file, (ConfigError,)),
    "token-uri": Decoder(endpoint_of, ()),
    "reach": Decoder(_text(Reach.parse), (FormatError,)),
    "rpc-url": Decoder(_text(RpcUrl.parse), (FormatError,)),
    "quote": Decoder(Quote.parse, (FormatError,)),
    "networks": Decoder(_text(parsers.networks), (ValueError,)),
}
