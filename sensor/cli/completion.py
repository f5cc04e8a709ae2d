"""`pinfold completion`."""

from __future__ import annotations

import click


@click.command(short_help="Print the completion of a shell.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print what makes SHELL complete pinfold's commands, options, sandboxes and quarantines.

    \b
    bash   pinfold completion bash > /etc/bash_completion.d/pinfold
    zsh    pinfold completion zsh > "${fpath[1]}/_pinfold"
    fish   pinfold completion fish > ~/.config/fish/completions/pinfold.fish
    """
    from click.shell_completion import get_completion_class  # noqa: PLC0415

    kind = get_completion_class(shell)
    assert kind is not None
    made = kind(context.find_root().command, {}, "pinfold", "_PINFOLD_COMPLETE")
    # Not source(): bash's asks the shell's version, and nothing here needs that shell to be installed.
    click.echo(made.source_template % made.source_vars())
