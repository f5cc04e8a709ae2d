"""A correlation's detection in a line, and described."""

from __future__ import annotations

import orjson

from sensor.cli.describe import described
from sensor.cli.render import compact
from sensor.events.detection import Correlated
from sensor.export import lines
from tests.export import samples

SECOND = 1_000_000_000
SEEN = Correlated(
    "event_count",
    (("User", "\x1b[31mx"),),
    12,
    SECOND,
    5 * SECOND + SECOND // 2,
    (("1f-8", "r"), ("1f-10", "r")),
    False,
)
DETECTION = samples.detection(samples.process_creation(), correlation=SEEN)


def test_a_line_tells_how_many_in_which_time() -> None:
    line = compact(orjson.loads(lines.detection_line(DETECTION)), None, colours=False)
    assert line[28:].startswith("HIGH     Reverse SSH tunnel (12 events in 4.5 s): ssh -R")


def test_it_is_described() -> None:
    told = described(orjson.loads(lines.detection_line(DETECTION)))
    names = [name for name, _ in told]
    assert dict(told)["Correlation"].startswith("event_count: 12 events, from 1970-01-01T00:00:01")
    assert dict(told)["Grouped by"] == "User=\x1b[31mx"  # escaped where it is printed
    at = names.index("Made of")
    assert told[at : at + 2] == [("Made of", "event 1f-8 of rule r"), ("", "event 1f-10 of rule r")]
    assert "Partial" not in names


def test_what_is_broken_breaks_nothing() -> None:
    record = orjson.loads(lines.detection_line(DETECTION))
    cases: tuple[object, ...] = (
        [],
        {"count": "x", "group": 3, "events": [1, {}], "first": None},
        "text",
        {"count": 1e400},
    )
    for broken in cases:
        record["Correlation"] = broken
        assert compact(record, None, colours=False)
        assert described(record)
