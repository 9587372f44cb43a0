"""Run many random sequences of calls against the registry contract and its model.

python -m tests.contracts --sequences 20000 --steps 25
"""

import click
from tests.contracts.test_model import CALLS, OFFERS, SUCCESSES, check, unreached


@click.command(help=__doc__)
@click.option("--sequences", default=20_000, show_default=True)
@click.option("--steps", default=25, show_default=True, help="Calls in a sequence.")
def main(sequences: int, steps: int) -> None:
    check(sequences, steps)
    click.echo(f"{sequences} sequences, {CALLS.total()} calls, {SUCCESSES.total()} not refused")
    for function, count in sorted(CALLS.items()):
        click.echo(f"  {function:28} {count:8} {SUCCESSES[function]:8}")
    click.echo(f"{len(OFFERS)} invitations were redeemed")
    if names := unreached():
        raise click.ClickException(f"not both done and refused: {', '.join(sorted(names))}")


if __name__ == "__main__":
    main()
