from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from sensor.cli.topframe import SORTS, View, frame, rate, scrolled
from sensor.cli.toptold import told as together
from tests.cli.fake_top import told


def shown(view: View, width: int = 80, height: int = 24) -> list[str]:
    return [row.text for row in frame(view, width, height, now=100.0)]


def names(view: View, height: int = 60) -> list[str]:
    rows = shown(view, height=height)
    first = next(number for number, row in enumerate(rows) if row.startswith("SANDBOX"))
    last = next(number for number, row in enumerate(rows) if row.startswith("TALKER"))
    return [row.split()[0] for row in rows[first + 1 : last]]


def test_a_screen_of_80_by_24_has_everything() -> None:
    rows = shown(View(told=told(40), told_at=100.0))
    assert len(rows) == 24
    assert max(map(cell_len, rows)) <= 80
    text = "\n".join(rows)
    for wanted in (
        "22:13:20Z", "40 sandboxes (1-", "1.2k events/s", "ring 12% [#",
        "LOST 15 events: kernel/budget 12, log/ENOSPC 3",
        "agent-1 ", "quarantine", "updater", "203.0.113.7:443", "ssh", "81k", "[2001:db8::7]:8443", "critical",
        "A flow from outside is relayed inward", "q quit",
    ):  # fmt: skip
        assert wanted in text, wanted


def test_nothing_lost_is_said() -> None:
    rows = frame(View(told={**told(), "lost": {}}, told_at=100.0), 80, 24, now=100.0)
    assert (rows[1].text, rows[1].style) == ("lost 0 events", "good")


@pytest.mark.parametrize(
    ("by", "first"), [("events_s", "agent-0"), ("bytes_out_s", "agent-11"), ("name", "agent-0"), ("lost", "agent-2")]
)
def test_sandboxes_are_sorted(by: str, first: str) -> None:
    view = View(told=told(12), told_at=100.0, sort=SORTS.index(by))
    assert names(view)[0] == first
    assert sorted(names(view)) == sorted(f"agent-{number}" for number in range(12))


def test_scrolling_stops_at_the_ends() -> None:
    view = View(told=told(40), told_at=100.0)
    scrolled(view, 3)
    assert "agent-3 " in "\n".join(shown(view)) and "agent-2 " not in "\n".join(shown(view)[2:8])
    scrolled(view, 1 << 30)
    assert "agent-39" in "\n".join(shown(view))
    assert view.scroll == 40 - view.shown
    scrolled(view, -(1 << 30))
    assert view.scroll == 0
    view.told = told(2)
    scrolled(view, 5)
    assert "agent-0" in "\n".join(shown(view))


def test_a_silent_sensor_is_said_and_the_last_picture_stays() -> None:
    view = View(error="no daemon runs here\x1b")
    assert "no daemon runs here\\x1b" in shown(view)[1]
    view = View(told=told(), told_at=88.0, error="the daemon has ended")
    assert "the daemon has ended; trying again; this is 12 s old" in shown(view)[2]
    assert "agent-0" in "\n".join(shown(view))
    assert "no news from the sensor for 12 s" in shown(View(told=told(), told_at=88.0))[2]


def test_hostile_names_are_escaped_and_secrets_hidden() -> None:
    hostile = told(1)
    hostile["sandboxes"][0]["name"] = "\x1b[2J\u202e漢字漢字漢字漢字\n"
    hostile["talkers"][0]["process"] = "--password=x"
    rows = shown(View(told=hostile, told_at=100.0))
    assert all(row.isprintable() and cell_len(row) <= 80 for row in rows)
    assert any(row.startswith("\\x1b[2J\\u202e") for row in rows)
    assert "=x" not in "\n".join(rows)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.25, "0.2"), (7, "7"), (12.7, "13"), (1234, "1.2k"), (1e30, "9223P"), (-1, "0"), ("x", "0")],
)
def test_rates_are_short(value: Any, text: str) -> None:
    assert rate(value) == text


class Told:
    """Plays the client."""

    def __init__(self, answers: dict[str, Any]) -> None:
        self._answers = answers

    def get(self, path: str, **_query: Any) -> Any:
        return self._answers[path]


def test_what_is_told_in_several_answers_is_put_together() -> None:
    sandbox = {"name": "a", "events_per_s": 7.5, "events": {"network_connection": 2.0}, "out_per_s": 5, "in_per_s": 6}
    talker = {"sandbox": "a", "tgid": 999, "remote": "203.0.113.7:443", "out_per_s": 5, "in_per_s": 6}
    detection = {"time": "2023-11-14T22:13:20.5Z", "rule": {"title": "T", "level": "high"}, "SandboxName": "a"}
    client: Any = Told({
        "/v1/top": {"time_ns": 1, "sandboxes": [sandbox], "talkers": [talker]},
        "/v1/status": {"lost": {"kernel": 3}},
        "/v1/detections": {"detections": [detection]},
    })  # fmt: skip
    answer = together(client)
    assert (answer["events_s"], answer["lost"]) == (7.5, {"kernel": 3})
    text = "\n".join(shown(View(told=answer, told_at=100.0)))
    assert "LOST 3 events" in text and "22:13:20 high     a" in text
    assert next(row for row in text.splitlines() if "999" in row).split() == ["a", "999", "203.0.113.7:443", "5", "6"]


def test_one_answer_is_enough() -> None:
    client: Any = Told({"/v1/top": told()})
    assert together(client) == told()


anything = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=4), inner, max_size=4)),
    max_leaves=10,
)
FIELDS = [
    *SORTS, "state", "quarantine", "class", "level", "rule", "sandbox", "time_ns", "process", "destination", "protocol",
]  # fmt: skip
row = st.dictionaries(st.sampled_from(FIELDS), anything, max_size=8)
rows_of = st.lists(st.one_of(anything, row), max_size=6)
answers = st.dictionaries(
    st.sampled_from(["time_ns", "ring_used", "ring_size", "lost", "events_s", "sandboxes", "talkers", "detections"]),
    st.one_of(anything, rows_of),
)


@given(answers, st.integers(0, 120), st.integers(0, 40), st.integers(-3, 12), st.booleans(), st.text(max_size=9))
def test_whatever_is_told_fits_whatever_terminal(
    answer: dict[str, Any], width: int, height: int, at: int, help_: bool, error: str
) -> None:
    view = View(told=answer, told_at=100.0, sort=at, scroll=at, help=help_, error=error)
    rows = shown(view, width, height)
    assert len(rows) == (height if width else 0)
    assert all(cell_len(row) <= width and row.isprintable() for row in rows)
