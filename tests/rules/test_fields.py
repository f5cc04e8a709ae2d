"""The field table follows the activities."""

from __future__ import annotations

import pytest
from msgspec import structs

from sensor.rules import fields


@pytest.mark.parametrize("category", list(fields.CATEGORIES))
def test_every_attribute_but_identity_and_bytes_is_a_field(category: str) -> None:
    attributes = {f.name for f in structs.fields(fields.CATEGORIES[category])}
    table = fields.of_category(category)
    assert {field.attribute for field in table.values()} == attributes - {"generation", "position", "raw", "argv"}
    assert all(name == field.name and field.description for name, field in table.items())


def test_no_description_is_left_over() -> None:
    named = {name for category in fields.CATEGORIES for name in fields.of_category(category)}
    assert set(fields._DESCRIPTIONS) == named


def test_the_tables_name_every_field_once_for_each_category_that_adds_it() -> None:
    text = fields.markdown()
    assert text.count("| `Image` |") == 1
    assert text.count("| `Verdict` |") == 2
    for category in fields.CATEGORIES:
        assert f"### {category}\n" in text
        assert all(f"| `{name}` |" in text for name in fields.of_category(category))


def test_keywords_are_searched_in_text_only() -> None:
    for category in fields.CATEGORIES:
        assert {field.kind for field in fields.keyword_fields(category)} <= {"text", "address"}
