"""`attest`: is a node's key that of a confidential VM which runs what it should?"""

import json
import sys
from datetime import UTC, datetime
from typing import IO, Any

import click

from dstack_vpn.cli.params import KEY
from dstack_vpn.cli.text import printable
from dstack_vpn.core.keys import PublicKey
from dstack_vpn.errors import FormatError


@click.group()
def attest() -> None:
    """Check what a node says of itself."""


@attest.command(
    epilog="""\b
Examples:
  curl -s http://10.77.0.2:8080/attestation | dstack-vpn attest verify --public-key 'nOKU...='
  dstack-vpn attest verify web-1.json --public-key 'nOKU...=' --compose-hash 5f0c... --app-id 3327..."""
)
@click.argument("file", type=click.File("rb"), default="-")
@click.option(
    "--public-key", type=KEY, help="The key that the registry has for the node; else what the file says."
)
@click.option("--compose-hash", help="What the compose file must have been measured as.")
@click.option("--app-id", help="The app that it must be.")
@click.option("--instance-id", help="The instance that it must be.")
@click.option("--mrtd", help="What the firmware must have been measured as.")
@click.option("--json", "as_json", is_flag=True, help="The result as JSON.")
def verify(
    file: IO[bytes],
    public_key: PublicKey | None,
    *,
    as_json: bool,
    mrtd: str | None,
    **expected: str | None,
) -> None:
    """Check the answer of a node's /attestation: signatures up to Intel's root, and what is measured.

    Without --public-key it shows no more than that *some* key is attested. Exits with 1 where anything is
    wrong. What can't be checked without Intel's collateral is said.
    """
    from dstack_vpn.adapters.attest.verify import UNCHECKED, Expected
    from dstack_vpn.adapters.attest.verify import verify as check

    said = _read(file)
    key = PublicKey.parse(said["public_key"]) if public_key is None else public_key
    lowered = {name: None if text is None else text.lower() for name, text in expected.items()}
    wanted = Expected(**lowered, mr_td=None if mrtd is None else mrtd.lower())
    now = datetime.now(UTC)  # noqa: TID251 - a command's own clock
    finding = check(said["quote"], said["event_log"], key, expected=wanted, now=now)
    if as_json:
        document = {
            "valid": finding.valid,
            "public_key": str(key),
            "checks": {c.name: c.problem for c in finding.checks},
            "unchecked": UNCHECKED,
            "measurements": finding.measurements,
        }
        click.echo(json.dumps(document))
    else:
        for c in finding.checks:
            click.echo(printable(f"{'FAILED' if c.problem else 'ok    '}  {c.name}{_tail(c.problem)}"))
        for name, value in finding.measurements.items():
            click.echo(printable(f"        {name}: {value}"))
        for what in UNCHECKED:
            click.echo(f"not checked: {what}")
        click.echo(f"{key} is {'attested' if finding.valid else 'NOT attested'}")
    if not finding.valid:
        sys.exit(1)


def _tail(problem: str | None) -> str:
    return f": {problem}" if problem else ""


def _read(file: IO[bytes]) -> dict[str, Any]:
    """The texts that are needed; raises `FormatError`."""
    try:
        said = json.loads(file.read(1 << 22))
    except (ValueError, RecursionError):
        raise FormatError("expected the JSON that a node serves at /attestation") from None
    names = ("quote", "event_log", "public_key")
    if not isinstance(said, dict) or not all(isinstance(said.get(name), str) for name in names):
        raise FormatError(f"expected JSON with {', '.join(names)}, as a node serves it at /attestation")
    return said
