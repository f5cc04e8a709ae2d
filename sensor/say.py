"""One line for the operator, on stderr: systemd's journal, or the terminal."""

from __future__ import annotations

import sys


def say(text: str) -> None:
    print(f"pinfold: {text}", file=sys.stderr, flush=True)
