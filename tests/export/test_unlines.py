"""Lines of the log back to what they were made of."""

from __future__ import annotations

import contextlib
from typing import Any, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs
from msgspec.structs import replace

from sensor.events.activity import AnyActivity
from sensor.export.lines import activity_line, detection_line, sandbox_line
from sensor.export.unlines import activity_of
from tests.export import samples

TEXT = st.text(st.characters(codec="utf-8"), max_size=30)
LATEST_NS = 253402300799 * 10**9  # the last second that RFC 3339 can write
VALUES: dict[Any, st.SearchStrategy[Any]] = {
    str: TEXT,
    int: st.integers(-(1 << 63), (1 << 64) - 1),
    bool: st.booleans(),
    bytes: st.lists(st.binary(max_size=12).map(lambda part: part.replace(b"\0", b"")), max_size=5).map(
        lambda parts: b"".join(part + b"\0" for part in parts)
    ),
}
UNSIGNED = st.integers(0, (1 << 64) - 1)


@st.composite
def activities(draw: st.DrawFn) -> AnyActivity:
    made: AnyActivity = draw(st.sampled_from(samples.EVERY_ACTIVITY))()
    hints = get_type_hints(type(made))
    drawn: dict[str, Any] = {
        field.name: draw(VALUES[hints[field.name]]) for field in structs.fields(made) if hints[field.name] in VALUES
    }
    drawn |= {"generation": draw(UNSIGNED), "position": draw(UNSIGNED), "time_ns": draw(st.integers(0, LATEST_NS))}
    names = [name for name, kind in hints.items() if kind is str]
    kept = draw(st.dictionaries(st.sampled_from(names), st.binary(max_size=20), max_size=3))
    return replace(made, **drawn, raw=kept or None)


@given(activities())
def test_a_line_gives_back_what_it_was_made_of(activity: AnyActivity) -> None:
    assert activity_of(activity_line(activity)) == activity


def test_what_is_no_event_is_none() -> None:
    assert activity_of(detection_line(samples.detection())) is None
    assert activity_of(sandbox_line(samples.sandbox_change())) is None
    assert (
        activity_of(b'{"v":1,"kind":"event","category":"of_another_version","id":"1-2","time":"' + TIME + b'"}') is None
    )


TIME = b"2023-11-14T22:13:20.000000042Z"
LINE = activity_line(samples.process_creation())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"id":"1f-abc0"', b'"id":"1f"'),
        (b'"id":"1f-abc0"', b'"id":7'),
        (b'"id":"1f-abc0"', b'"id":"1f-' + b"f" * 17 + b'"'),
        (TIME, b"yesterday"),
        (b'"SandboxId":4242', b'"SandboxId":"4242"'),
        (b'"Existing":false', b'"Existing":0'),
        (b'"Argv":[', b'"Argv_b64":"?","Argv":['),
        (b"}\n", b"\n"),
    ],
)
def test_a_damaged_line_is_said_to_be_one(old: bytes, new: bytes) -> None:
    assert old in LINE
    with pytest.raises(ValueError, match=r"."):
        activity_of(LINE.replace(old, new))


def test_members_that_came_since_are_neutral_and_those_that_went_are_left_out() -> None:
    found = activity_of(LINE.replace(b'"ImageMemfd":false', b'"Gone":7').replace(b'"Uid":0', b'"Uid":5'))
    assert found is not None
    assert found == replace(samples.process_creation(), Uid=5)


@given(st.binary(max_size=200), st.integers(0, len(LINE)))
def test_nothing_in_a_line_raises_another_error(noise: bytes, at: int) -> None:
    with contextlib.suppress(ValueError, RecursionError):
        activity_of(LINE[:at] + noise + LINE[at:])
