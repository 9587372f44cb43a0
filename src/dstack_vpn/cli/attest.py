"""`attest`: the verification that a confidential VM with the expected software has a node's key."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any, Final, TypeVar

import click

from dstack_vpn.cli.params import KEY
from dstack_vpn.cli.text import printable
from dstack_vpn.core.attest.measurements import BY_NAME, MEASUREMENTS, Expected, Finding, Verdict
from dstack_vpn.core.wireguard.keys import PublicKey
from dstack_vpn.errors import FormatError

if TYPE_CHECKING:
    from dstack_vpn.wiring.attest import Judgement

_LONGEST: Final = 1 << 22
_RESULTS: Final = {
    Verdict.VALID: "is attested",
    Verdict.INCOMPLETE: "is NOT attested: the items marked with ! were not compared",
    Verdict.INVALID: "is NOT attested",
}
_Command = TypeVar("_Command", bound=Callable[..., Any])


def _expectations(command: _Command) -> _Command:
    """Add an option for each measurement; if it is repeated, any of its values is accepted."""
    for measurement in reversed(MEASUREMENTS):
        option = click.option(
            f"--{measurement.name}",
            multiple=True,
            metavar="HEX",
            help=f"Expected value: {measurement.label}.",
        )
        command = option(command)
    return command


@click.group()
def attest() -> None:
    """Verify a node's attestation."""


@attest.command(
    epilog="""\b
Examples:
  curl -s http://10.77.0.2:8080/attestation | dstack-vpn attest verify --public-key 'nOKU...=' \\
    --pccs https://pccs.example:8081 --expect web.json
  dstack-vpn attest verify web-1.json --public-key 'nOKU...=' --collateral intel.json \\
    --mrseam 5b38... --mrtd 91eb... --rtmr0 44c0... --rtmr1 0084... --rtmr2 d833... --compose-hash 5f0c..."""
)
@click.argument("file", type=click.File("rb"), default="-")
@click.option("--public-key", type=KEY, help="The node's key in the registry.")
@click.option("--collateral", type=click.File("rb"), help="Intel's collateral in dcap-qvl's JSON format.")
@click.option("--pccs", metavar="URL", help="A PCCS from which to fetch Intel's collateral.")
@click.option(
    "--accept-tcb",
    multiple=True,
    metavar="STATUS",
    help="A TCB status to accept in addition to UpToDate, such as SWHardeningNeeded.",
)
@click.option(
    "--expect",
    type=click.File("rb"),
    help='A JSON file of expected values, such as {"rtmr1": "0084...", "mrseam": ["5b38...", "49b6..."]}.',
)
@_expectations
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def verify(
    file: IO[bytes],
    public_key: PublicKey | None,
    *,
    collateral: IO[bytes] | None,
    pccs: str | None,
    accept_tcb: Sequence[str],
    expect: IO[bytes] | None,
    as_json: bool,
    **options: Sequence[str],
) -> None:
    """Check a node's reply at /attestation, and list which values were compared.

    The verdict is "valid", with exit code 0, only if the quote is genuine according to Intel's
    collateral, binds the public key, and the TDX module, firmware, virtual hardware, kernel,
    command line and compose file (or RTMR3) are as expected. Otherwise the exit code is 1, or 75 if
    the PCCS does not answer.
    """
    from dstack_vpn.wiring import attest as verifier

    reply = _read(file)
    quote = verifier.decode(reply["quote"])
    expected = _expected(expect, options)
    by = _judgement(quote, collateral, pccs, accept_tcb)
    finding = verifier.verify(quote, reply["event_log"], public_key, expected=expected, by=by)
    subject = reply["public_key"] if public_key is None else str(public_key)
    if as_json:
        click.echo(json.dumps(_document(finding, subject)))
    else:
        for line in _lines(finding, subject):
            click.echo(printable(line))
    if not finding.valid:
        click.get_current_context().exit(1)


def _judgement(
    quote: bytes, collateral: IO[bytes] | None, pccs: str | None, accept: Sequence[str]
) -> "Judgement":
    from dstack_vpn.wiring.attest import LEVELS, judgement

    if collateral is not None and pccs is not None:
        raise click.UsageError("--collateral and --pccs exclude each other: give one of them")
    if unknown := set(accept) - set(LEVELS):
        raise click.UsageError(f"--accept-tcb {min(unknown)[:40]!r}: expected one of {', '.join(LEVELS)}")
    text = None if collateral is None else collateral.read(_LONGEST + 1).decode("utf-8", "replace")
    return judgement(quote, text, pccs, accept)


def _expected(file: IO[bytes] | None, options: Mapping[str, Sequence[str]]) -> Expected:
    """Return the expected values: the command line's replace the file's.

    Raises `click.UsageError`.
    """
    given = {name.replace("_", "-"): list(texts) for name, texts in options.items() if texts}
    try:
        return Expected.parse(({} if file is None else _expect_file(file)) | given)
    except FormatError as error:
        raise click.UsageError(str(error)) from error


def _expect_file(file: IO[bytes]) -> dict[str, list[str]]:
    try:
        document = json.loads(file.read(_LONGEST))
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise FormatError(f"--expect: expected a JSON object with any of {', '.join(BY_NAME)}")
    found = {}
    for name, value in document.items():
        texts = value if isinstance(value, list) else [value]
        if not texts or not all(isinstance(text, str) for text in texts):
            raise FormatError(f"--expect: {name[:40]!r} is not a text or a list of texts")
        found[name] = texts
    return found


def _document(finding: Finding, subject: str) -> dict[str, Any]:
    return {
        "verdict": finding.verdict,
        "valid": finding.valid,
        "public_key": subject,
        "checks": {check.name: check.problem for check in finding.checks},
        "not_compared": [gap.name for gap in finding.gaps],
        "missing": [gap.name for gap in finding.gaps if gap.needed],
        "measurements": dict(finding.measurements),
    }


def _lines(finding: Finding, subject: str) -> list[str]:
    lines = []
    for check in finding.checks:
        problem = f": {check.problem}" if check.problem else ""
        lines.append(f"{'FAILED' if check.problem else 'ok    '}  {check.name}{problem}")
    lines += [f"{'!' if gap.needed else ' '} not compared: {gap.name}" for gap in finding.gaps]
    lines += [f"        {name}: {value}" for name, value in finding.measurements.items()]
    return [*lines, f"{finding.verdict}: {subject} {_RESULTS[finding.verdict]}"]


def _read(file: IO[bytes]) -> dict[str, Any]:
    """Read a node's reply; raises `FormatError`."""
    try:
        reply = json.loads(file.read(_LONGEST))
    except (ValueError, RecursionError):
        raise FormatError("expected the JSON that a node serves at /attestation") from None
    names = ("quote", "event_log", "public_key")
    if not isinstance(reply, dict) or not all(isinstance(reply.get(name), str) for name in names):
        raise FormatError(f"expected JSON with {', '.join(names)}, as a node serves it at /attestation")
    return reply
