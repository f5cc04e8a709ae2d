from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from sensor.enrich.protocols.jsonscan import (
    DEPTH_MAX,
    MEMBERS_MAX,
    OBJECTS_MAX,
    TOKENS_MAX,
    Cut,
    objects,
    said,
    scan,
)
from tests.enrich.protocols.checks import ANY

STRINGS = st.text(max_size=20)
VALUES = st.recursive(
    st.none() | STRINGS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(STRINGS, inner, max_size=4),
    max_leaves=10,
)


def depth(value: object) -> int:
    inner = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    return (1 + max((depth(part) for part in inner), default=0)) if isinstance(value, dict | list) else 0


@given(st.dictionaries(STRINGS, VALUES, max_size=4), st.booleans())
def test_whole_objects_are_as_json_reads_them(value: dict[str, object], ascii_only: bool) -> None:
    line = json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    if depth(value) <= DEPTH_MAX:
        assert scan(line + b" rest", 0) == (json.loads(line), len(line))


def test_the_last_string_may_be_cut() -> None:
    whole = b'{"a":"one","b":{"c":["two","thr'
    value, end = scan(whole, 0)
    assert value == {"a": "one", "b": {"c": ["two", "thr"]}} and end == len(whole)
    inner = value["b"]
    assert isinstance(inner, dict) and isinstance(inner["c"], list)
    assert type(inner["c"][1]) is Cut and said(inner["c"][1]) == "" and said(value["a"]) == "one"


def test_objects_by_line_side_by_side_and_over_lines() -> None:
    data = b'{"a":1}\n{"b":"x"}{"c":[]}\r\n\t{\n "d" : "y"\n}\n[{"e":"z"},{"f":"'
    assert [list(value) for value in objects(data)] == [["a"], ["b"], ["c"], ["d"], ["e"], ["f"]]
    assert objects(b"no") == [] == objects(b"") == objects(b"  ")


def test_escapes() -> None:
    assert scan(rb'{"\u006dethod":"\u006dining.\u0073ubmit","x":"\ud800","y":"\q"}', 0)[0] == {
        "method": "mining.submit",
        "x": "\\ud800",
        "y": "\\q",
    }
    assert scan(rb'{"a":"b\\","c":"\"d"}', 0)[0] == {"a": "b\\", "c": '"d'}


def test_bounds() -> None:
    assert len(objects(b"{}" * 100)) == OBJECTS_MAX
    many = b'{"a":[' + b"1," * 1000
    inner = scan(many, 0)[0]["a"]
    assert isinstance(inner, list) and len(inner) == MEMBERS_MAX
    assert depth(scan(b'{"a":' * 1000, 0)[0]) == DEPTH_MAX
    assert scan(b"{" + b'"a":1,' * TOKENS_MAX + b"}", 0)[1] > TOKENS_MAX
    deep = b'{"x":' + b"[" * 100 + b"]" * 100 + b',"method":"after"}'
    assert scan(deep, 0)[0]["method"] == "after"


def test_deep_nesting_in_a_whole_line() -> None:
    value = objects(b'{"a":' + b"[" * 1900 + b"]" * 1900 + b',"b":"c"}\n')
    assert len(value) == 1 and type(value[0]) is dict


def test_said_is_printable() -> None:
    assert said("a\nb\x1b\u202e") == "a\ufffdb\ufffd\ufffd"
    assert said(None) == said(7) == said(["a"]) == "" and said("x" * 300, 128) == "x" * 128


@given(ANY)
def test_any_bytes(data: bytes) -> None:
    for value in (*objects(data), *objects(b"{" + data), *objects(b'{"a":"' + data)):
        assert type(value) is dict
