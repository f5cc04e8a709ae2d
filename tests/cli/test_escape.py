from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from sensor.cli.escape import escape, escape_json, fit

any_text = st.text(st.characters(), max_size=60)
valid_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text, é 漢 \N{ROCKET}", "plain text, é 漢 \N{ROCKET}"),
        ("\x1b[2J\x1b]0;t\x07", "\\x1b[2J\\x1b]0;t\\x07"),
        ("a\nb\r\tc\x00\x7f", "a\\x0ab\\x0d\\x09c\\x00\\x7f"),
        ("\x9b31m\xa0", "\\x9b31m\\xa0"),
        ("\u202eevil\u2066\u200b\ufeff\u2028", "\\u202eevil\\u2066\\u200b\\ufeff\\u2028"),
        ("\U000e0041\udc80", "\\U000e0041\\udc80"),
    ],
)
def test_what_a_terminal_could_act_on_is_shown(text: str, shown: str) -> None:
    assert escape(text) == shown


@given(any_text)
def test_whatever_comes_is_one_printable_line(text: str) -> None:
    assert escape(text).isprintable()


@given(valid_text)
def test_escaped_json_is_printable_and_the_same_json(text: str) -> None:
    line = escape_json(orjson.dumps({text: [text]}).decode())
    assert line.isprintable()
    assert orjson.loads(line) == {text: [text]}


@given(any_text, st.integers(min_value=1, max_value=50))
def test_a_fitted_text_takes_no_more_columns(text: str, cells: int) -> None:
    fitted = fit(escape(text), cells)
    assert cell_len(fitted) <= cells
    if fitted != escape(text):
        assert fitted.endswith("…") or len(fitted) >= 4 * cells
