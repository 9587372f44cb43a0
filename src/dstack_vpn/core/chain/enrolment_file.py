"""The CSV file of nodes to be registered.

    node_id,holder,public_key,endpoint,tags,routes,expires
    web-1,0x7099...,nOKU...=,vpn.example.org:51820,web gateway,10.0.0.0/8 fd00::/8,2027-01-31

The first line names the columns, in any order. The first three are required. Tags and routes are
separated by blanks. The expiry is in Unix seconds, ISO 8601, or empty; a relative time would have
another value in the next run.
"""

import csv
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Final

from dstack_vpn.core.chain.enrolment import Enrolment
from dstack_vpn.core.chain.invitation import canonical_routes, check_label
from dstack_vpn.core.chain.tagging import check_names
from dstack_vpn.core.model import ZERO_ADDRESS, Address
from dstack_vpn.core.paths.peer_endpoint import PeerEndpoint
from dstack_vpn.core.wireguard.keys import PublicKey
from dstack_vpn.errors import FormatError

REQUIRED: Final = ("node_id", "holder", "public_key")
OPTIONAL: Final = ("endpoint", "tags", "routes", "expires")
MOST_ROWS: Final = 10_000
_SHOWN: Final = 20
"""The number of problems that one error lists."""
_LAST: Final = 2**64 - 1
_LONGEST: Final = 40
"""Characters of an expiry."""


def parse(text: str, check_account: Callable[[str], Address]) -> tuple[Enrolment, ...]:
    """Return the nodes of a file; raises `FormatError` with the lines of all problems.

    ``check_account`` checks an address and its checksum, and returns it in lower case.
    """
    reader = csv.reader(text.removeprefix("\ufeff").splitlines(), strict=True)
    problems: list[str] = []
    found: list[tuple[int, Enrolment]] = []
    try:
        columns = _columns(next(reader, []))
        for cells in reader:
            if not cells:
                continue
            if len(found) + len(problems) >= MOST_ROWS:
                raise FormatError(f"the file has more than {MOST_ROWS} rows: divide it")
            try:
                found.append((reader.line_num, _row(columns, cells, check_account)))
            except FormatError as error:
                problems.append(f"line {reader.line_num}: {error}")
    except csv.Error as error:
        problems.append(f"line {reader.line_num}: the CSV is malformed ({error})")
    problems += _duplicates(found)
    if not found and not problems:
        problems.append("the file has no rows below its header")
    raise_for(problems)
    return tuple(each for _, each in found)


def raise_for(problems: Sequence[str]) -> None:
    """Raise a `FormatError` that lists the problems, if there are any."""
    if problems:
        more = len(problems) - _SHOWN
        shown = [*problems[:_SHOWN], *([f"and {more} more"] if more > 0 else [])]
        raise FormatError("\n".join(["nothing was sent:", *(f"  - {problem}" for problem in shown)]))


def _columns(cells: Sequence[str]) -> list[str]:
    columns = [cell.strip() for cell in cells]
    missing = [name for name in REQUIRED if name not in columns]
    unknown = [number for number, name in enumerate(columns, 1) if name not in {*REQUIRED, *OPTIONAL}]
    if missing or unknown or len(set(columns)) != len(columns):
        raise FormatError(
            f"the first line must name the columns {', '.join(REQUIRED)} and optionally "
            f"{', '.join(OPTIONAL)}, each once"
        )
    return columns


def _row(columns: Sequence[str], cells: Sequence[str], check_account: Callable[[str], Address]) -> Enrolment:
    if len(cells) != len(columns):
        raise FormatError(f"{len(cells)} fields, but the first line names {len(columns)} columns")
    row = {name: cell.strip() for name, cell in zip(columns, cells, strict=True)}
    holder = check_account(row["holder"])
    if holder == ZERO_ADDRESS:
        raise FormatError("holder: the zero address can't hold a node")
    endpoint = row.get("endpoint", "")
    return Enrolment(
        check_label(row["node_id"], "node id"),
        holder,
        PublicKey.parse(row["public_key"]),
        PeerEndpoint.parse(endpoint) if endpoint else None,
        check_names(row.get("tags", "").split()),
        canonical_routes(row.get("routes", "").split()),
        _expiry(row.get("expires", "")),
    )


def _expiry(text: str) -> int:
    if not text:
        return 0
    moment = 0
    if text.isascii() and text.isdigit() and len(text) <= _LONGEST:
        moment = int(text)
    elif len(text) <= _LONGEST:
        try:
            date = datetime.fromisoformat(text)
        except ValueError:
            date = datetime(1970, 1, 1, tzinfo=UTC)
        moment = int((date if date.tzinfo is not None else date.replace(tzinfo=UTC)).timestamp())
    if not 0 < moment <= _LAST:
        raise FormatError("expires: expected Unix seconds, or a date such as 2027-01-31T18:00:00Z")
    return moment


def _duplicates(found: Sequence[tuple[int, Enrolment]]) -> list[str]:
    """Return a problem for each node id and key that an earlier line has."""
    problems, seen = [], dict[object, int]()
    for line, each in found:
        for what, value in (("node id", each.node_id), ("key", each.key)):
            first = seen.setdefault(value, line)
            if first != line:
                problems.append(f"line {line}: its {what} is that of line {first}")
    return problems
