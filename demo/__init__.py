"""The demo: a chain, a contract and three real nodes, live in a terminal."""

import click


@click.command(
    epilog="""\b
Examples:
  python -m demo
  python -m demo --keep     leave it running, and print how to inspect it
  python -m demo --clean    remove what --keep left running"""
)
@click.option("--keep", is_flag=True, help="Leave everything running, and print how to inspect it.")
@click.option("--plain", is_flag=True, help="Print line by line, also in a terminal.")
@click.option("--clean", is_flag=True, help="Remove what earlier demos left running, and exit.")
def demo(*, keep: bool, plain: bool, clean: bool) -> None:
    """Run a whole network for half a minute, and remove it.

    A dev chain, the registry contract and three nodes, each in a network namespace of its own
    without a way out. Needs root, TUN, anvil and wireguard-go; nothing of the machine's own network
    is touched.
    """
    from demo import show

    if clean:
        show.clean()
        return
    show.show(keep=keep, plain=plain)
