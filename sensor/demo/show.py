"""Lines for people, 80 columns wide: a heading, and below it what was done and seen."""

from __future__ import annotations

import sys
import textwrap

WIDTH = 80
LABEL = 13
FACT = 11


def heading(text: str) -> None:
    _print(f"\n{text}")


def row(label: str, text: str) -> None:
    """`  label      text`, the text wrapped under itself. Text from the log is escaped where it is not printable."""
    _hang(f"  {label:<{LABEL}}", text)


def fact(label: str, text: str) -> None:
    """The same, further in: what is known of the row above."""
    _hang(f"{'':{2 + LABEL}}{label:<{FACT}}", text)


def _hang(head: str, text: str) -> None:
    printable = "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)
    indent = " " * len(head)
    lines = textwrap.wrap(
        printable, WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
    ) or [indent]
    _print(head + "\n".join(lines)[len(indent) :])


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
