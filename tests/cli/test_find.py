from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor.cli import find
from sensor.errors import NotFoundError, UsageError
from tests.cli.fake_daemon import sandbox

FOUND = [sandbox(11, "agent-1"), sandbox(12, "11"), sandbox(21, "twin", "a/b"), sandbox(22, "twin", "c/twin")]


@pytest.mark.parametrize(
    ("word", "sandbox_id"), [("agent-1", 11), ("a/b", 21), ("/a/b", 21), ("/c/twin/", 22), ("22", 22)]
)
def test_a_sandbox_by_name_id_and_path(word: str, sandbox_id: int) -> None:
    assert find.sandbox(FOUND, word)["id"] == sandbox_id


def test_an_id_goes_before_a_name_that_looks_like_one() -> None:
    """Names are a sandbox's to choose: it must not make itself another's id."""
    assert find.sandbox(FOUND, "11")["name"] == "agent-1"


def test_several_of_one_name_are_all_told() -> None:
    with pytest.raises(UsageError, match="21 a/b; 22 c/twin"):
        find.sandbox(FOUND, "twin")


def test_the_nearest_are_told_and_escaped() -> None:
    with pytest.raises(NotFoundError, match=r"no sandbox 'agent1'; nearest: agent-1$"):
        find.sandbox(FOUND, "agent1")
    with pytest.raises(NotFoundError, match=r"nearest: agent-1\\x1b\[2J$"):
        find.sandbox([sandbox(1, "agent-1\x1b[2J")], "agent-1[2J")
    with pytest.raises(NotFoundError, match=r"no sandbox '/'$"):
        find.sandbox([sandbox(1, "x", "/")], "/")


@given(
    st.lists(st.dictionaries(st.sampled_from(["id", "name", "path", "state", "order"]), st.none() | st.text())),
    st.text(),
)
def test_strange_answers_are_no_exception(found: list[dict[str, Any]], word: str) -> None:
    for look in (find.sandbox, find.quarantine):
        try:
            assert look(found, word) in found
        except (NotFoundError, UsageError):
            continue
