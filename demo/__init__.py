"""`demo`: a chain, a contract, three real nodes, and what happens to them, live in a terminal."""

import click


@click.command(
    epilog="""\b
Examples:
  python -m demo
  python -m demo --keep     then look around, as it tells you
  python -m demo --clean    remove what --keep has left"""
)
@click.option("--keep", is_flag=True, help="Leave everything running, and say how to look at it.")
@click.option("--plain", is_flag=True, help="Line by line, also in a terminal.")
@click.option("--clean", is_flag=True, help="Remove what ended demos have left running, and do nothing else.")
def demo(*, keep: bool, plain: bool, clean: bool) -> None:
    """Show a whole network at work: it takes half a minute and leaves nothing behind.

    A dev chain, the registry contract and three nodes, each in a network namespace of its own
    without a way out. Needs root, TUN, anvil and wireguard-go; nothing of the machine's own network
    is touched.
    """
    from demo import show

    if clean:
        show.clean()
        return
    show.show(keep=keep, plain=plain)
