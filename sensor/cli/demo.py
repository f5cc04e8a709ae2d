"""`pinfold demo`."""

from __future__ import annotations

import click


@click.command(short_help="An incident on this host, watched, refused and killed.")
def demo() -> int:
    """Run an incident on this host, and show what pinfold does about it.

    A reverse SSH tunnel under its own name and under another, a stub miner and opens of GPU devices, in
    sandboxes and network namespaces of their own; nothing leaves the machine, and everything is taken down
    afterwards. Needs root.
    """
    from sensor.demo import main  # noqa: PLC0415

    return main()
