"""Text from elsewhere, made safe for a terminal.

Argv, paths and names are the sandbox's to choose. An escape sequence in them could recolour, hide
or rewrite what an operator reads; a bidirectional override reorders it; a newline forges a line.
"""

from __future__ import annotations


def escape(text: str) -> str:
    """`text` in one line, with everything that is not printable as \\x1b, \\u202e, \\U000e0041.
    The space is the only white space that stays."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else _shown(ord(character)) for character in text)


def escape_json(text: str) -> str:
    """The same for JSON, which stays the same JSON: what is not printable can stand within its
    strings only, and is written there as \\uXXXX."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else _units(ord(character)) for character in text)


def fit(text: str, cells: int) -> str:
    """The beginning of escaped text that takes at most so many columns; … where some is missing."""
    from rich.cells import cell_len, set_cell_size  # noqa: PLC0415

    text = text[: cells + 1] if text.isascii() else text[: 4 * cells]  # combining characters take no column
    if cell_len(text) <= cells:
        return text
    return set_cell_size(text, max(cells - 1, 0)).rstrip() + "…"


def _shown(code: int) -> str:
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def _units(code: int) -> str:
    if code <= 0xFFFF:
        return f"\\u{code:04x}"
    code -= 0x10000
    return f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"
