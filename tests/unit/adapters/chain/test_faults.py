"""Classification of the error messages of geth, reth, anvil and the large providers."""

import pytest

from dstack_vpn.adapters.chain.faults import Fault, UnknownBlockError, UnsupportedError, classify
from dstack_vpn.adapters.chain.transport import LONGEST_RETRY_AFTER, refused, retry_after
from dstack_vpn.errors import CallRevertedError, ChainError, EndpointError, RangeError, RetryError

RANGES = [
    (-32005, "query returned more than 10000 results. Try with this block range [0x1, 0x2]."),
    (-32602, "Log response size exceeded. You can make eth_getLogs requests with up to a 2K block range and"),
    (-32600, "Under the Free tier plan, you can make eth_getLogs requests with up to a 10 block range."),
    (-32614, "eth_getLogs is limited to a 10,000 range"),
    (-32000, "exceed maximum block range: 5000"),
    (-32000, "query exceeds max results 20000, retry with the range 1-2"),
    (-32602, "block range is too wide"),
    (35, "ranges over 10000 blocks are not supported on freetier"),
    (-32005, "too many results"),
    (-32000, "Query timeout exceeded. Consider reducing your block range."),
    (-32003, "response size should not greater than 10485760 bytes"),
    (-32600, "batch size exceeds the limit"),
    (-32603, "EVM error OutOfGas"),
    (-32000, "out of gas: gas required exceeds: 50000000"),
    (-32000, "gas required exceeds allowance (30000000)"),
    (-32000, "execution aborted (timeout = 5s)"),
]  # fmt: skip
RETRIES = [
    (429, "Your app has exceeded its compute units per second capacity."),
    (-32005, "limit exceeded"),
    (-32005, "daily request count exceeded, request rate limited"),
    (-32016, "over rate limit"),
    (-32007, "50/second request limit reached - reduce calls per second"),
    (-32603, "Internal error"),
    (-32002, ""),
    (-32000, "request timed out"),
    (0, "service temporarily unavailable"),
    (-32000, "context deadline exceeded"),
    (-32010, "backend returned an invalid response"),
    (-32011, "no backends available for method"),
    (-32014, "backend is over capacity"),
]
REVERTS = [
    (3, "execution reverted: out of gas range block not found rate limit"),
    (3, ""),
    (-32000, "execution reverted"),
    (-32015, "VM execution error."),
    (-32000, "invalid opcode: INVALID"),
    (-32603, "EVM error InvalidFEOpcode"),
]
UNKNOWN_BLOCKS = [
    (-32000, "header not found"),
    (-32000, "unknown block"),
    (-32001, "Resource not found"),
    (-39001, "Unknown block"),
    (-32000, "finalized block not found"),
    (-32602, "BlockOutOfRangeError: block height is 206 but requested was 300"),
    (-32000, "block not found: 0x1234"),
    (-32019, "block is out of range"),
]
UNSUPPORTED = [
    (-32601, "the method eth_foo does not exist/is not available"),
    (-32601, ""),
    (-32004, ""),
    (-32000, "method not supported"),
]
USELESS = [
    (-32000, "missing trie node 1234 (path ) state 0x1234 is not available"),
    (-32000, "project ID is required"),
    (-32600, "Invalid request"),
    (0, ""),
    (4444, "pruned history unavailable"),
]
KINDS = [
    (RangeError, RANGES), (RetryError, RETRIES), (CallRevertedError, REVERTS),
    (UnknownBlockError, UNKNOWN_BLOCKS), (UnsupportedError, UNSUPPORTED), (EndpointError, USELESS),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "code", "text"), [(k, c, t) for k, cases in KINDS for c, t in cases])
def test_the_type_says_what_to_do(kind: type[ChainError], code: int, text: str) -> None:
    assert type(classify(Fault(code, text), "eth_getLogs", text)) is kind


def test_a_revert_carries_its_data() -> None:
    error = classify(Fault(3, "execution reverted", b"\x01\x02"), "eth_call", "execution reverted")
    assert isinstance(error, CallRevertedError)
    assert error.data == b"\x01\x02"


def test_the_sentence_names_the_method_and_quotes_only_what_it_was_given() -> None:
    assert str(classify(Fault(0, "hostile"), "eth_call", "said")) == (
        "eth_call: the endpoint replied said (code 0)"
    )


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        *((status, RetryError) for status in (429, 500, 502, 503, 504)),
        (413, RangeError),
        *((status, EndpointError) for status in (302, 400, 401, 403, 404)),
    ],
)
def test_http_statuses(status: int, kind: type[ChainError]) -> None:
    assert type(refused(status, None)) is kind


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "3"}, 3.0),
        ({"Retry-After": "0"}, 0.0),
        ({"Retry-After": "99999999999999999999"}, LONGEST_RETRY_AFTER),
        ({"Retry-After": "-3"}, None),
        ({"Retry-After": "soon"}, None),
        ({}, None),
        ({"Retry-After": "Sun, 06 Nov 1994 08:49:47 GMT", "Date": "Sun, 06 Nov 1994 08:49:37 GMT"}, 10.0),
        ({"Retry-After": "Sun, 06 Nov 1994 08:49:27 GMT", "Date": "Sun, 06 Nov 1994 08:49:37 GMT"}, 0.0),
        ({"Retry-After": "Sun, 06 Nov 1994 08:49:47 GMT"}, None),
    ],
)
def test_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers) == seconds
    error = refused(429, headers)
    assert isinstance(error, RetryError)
    assert error.retry_after == seconds
