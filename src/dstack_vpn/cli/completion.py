"""`completion`: shell completion."""

import click
from click.shell_completion import get_completion_class


@click.command(
    epilog="""\b
Example:
  dstack-vpn completion bash > /etc/bash_completion.d/dstack-vpn"""
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script of a shell."""
    kind = get_completion_class(shell)
    assert kind is not None
    root = ctx.find_root()
    click.echo(kind(root.command, {}, "dstack-vpn", "_DSTACK_VPN_COMPLETE").source())
