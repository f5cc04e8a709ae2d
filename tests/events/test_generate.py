"""The generator refuses what would make the two sides differ in silence."""

from __future__ import annotations

import pytest

from sensor.events.generate import LayoutError, generate, parse

HEADER = "#define PF_ABI 1\nenum pf_type { PF_TYPE_EXEC = 1, };\n"


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ("u32 a; u64 b;", "pf_x.b: not aligned to 8"),
        ("u8 a; u16 b;", "pf_x.b: not aligned to 2"),
        ("u64 a; u32 b;", "pf_x: ends unaligned"),
        ("u32 a; u8 b[3];", "pf_x: ends unaligned"),
        ("u8 a; u32 b[2];", "pf_x.b: not aligned to 4"),
        ("int a;", "`int` has no fixed width"),
        ("size_t a;", "`size_t` has no fixed width"),
        ("u32 a : 3;", "cannot read `u32 a : 3`"),
        ("u32 *a;", "cannot read `u32 *a`"),
        ("u32 a, b;", "cannot read `u32 a, b`"),
        ("unsigned int a;", "cannot read `unsigned int a`"),
        ("u32 a[LENGTH];", "cannot read `u32 a[LENGTH]`"),
        ("u8 a[];", "cannot read `u8 a[]`"),
    ],
)
def test_refused(body: str, complaint: str) -> None:
    with pytest.raises(LayoutError) as error:
        parse(f"struct pf_x {{ {body} }};")
    assert complaint in str(error.value)
    assert str(error.value).startswith("pf_x")


def test_an_inner_struct_must_be_aligned() -> None:
    with pytest.raises(LayoutError, match=r"pf_y.inner: not aligned"):
        parse("struct pf_x { u64 a; }; struct pf_y { u32 b; struct pf_x inner; u32 c; };")


def test_written_padding_is_accepted_and_skipped() -> None:
    _, structs = parse("struct pf_x { u32 a; u32 pad; u64 b; u8 c[3]; u8 pad[5]; };")
    assert structs["pf_x"].size == 24
    assert [letter for _, letter, _ in structs["pf_x"].members] == ["I", "4x", "Q", "3s", "5x"]


def test_comments_hide_nothing_and_add_nothing() -> None:
    enums, structs = parse(
        "/* struct pf_no { int a; }; */ enum pf_e { A = 1, /* B = 2, */ C = 3 }; struct pf_x { u8 a; };"
    )
    assert enums == {"pf_e": {"A": 1, "C": 3}}
    assert list(structs) == ["pf_x"]


def test_the_abi_must_be_said() -> None:
    with pytest.raises(LayoutError, match="PF_ABI"):
        generate("enum pf_type { PF_TYPE_EXEC = 1, };")
