"""What counts as a detected tunnel: level, time, and nothing that matches without it."""

from __future__ import annotations

from pathlib import Path

from tests.bench.detection import Line, Rule, Seen, derived_rules, judge
from tests.bench.latency import SHIPPED

START = 1_764_400_000 * 10**9  # UTC
BEGAN, ENDED = START + 2_000_000_000, START + 2_050_000_000


def at(milliseconds: int) -> str:
    return f"2025-11-29T07:06:{40 + milliseconds // 1000:02d}.{milliseconds % 1000 * 10**6:09d}Z"


def matched(milliseconds: int, title: str, level: str = "high", category: str = "network_behavior") -> Line:
    return Line("detection", at(milliseconds), category, 7, Rule(title, level))


CONNECT = Line("event", at(100), "network_connection", 7, Initiated=True, DestinationIp="203.0.113.10")
INNER = Line("event", at(50), "network_flow", 7, Initiated=True, DestinationIp="127.0.0.1")


def seen(*lines: Line, ordinary: frozenset[str] = frozenset()) -> Seen:
    return judge("socat", [INNER, CONNECT, *lines], ordinary, BEGAN, ENDED)


def test_times_are_utc_nanoseconds() -> None:
    assert Line("event", "2025-11-29T07:06:40.000000001Z").utc_ns == START + 1


def test_a_detection_is_told_with_its_delays() -> None:
    found = seen(matched(2010, "A relay"))
    assert found == Seen("socat", "A relay", 1910.0, 10.0)
    assert str(found) == "socat: A relay, +1910 ms from connect, +10 ms from use"


def test_the_first_counts_and_the_behaviour_is_named_beside_it() -> None:
    found = seen(matched(120, "A program", category="process_creation"), matched(2010, "A relay"))
    assert (found.title, found.from_use_ms, found.later) == ("A program", -1880.0, "A relay at +10")


def test_what_does_not_count() -> None:
    for line in (matched(2010, "Hints", "low"), matched(3051, "Too late"), matched(10, "Service")):
        assert not seen(line, ordinary=frozenset({"Service"})).detected
    assert seen(matched(3049, "In time")).detected
    assert str(seen()) == "socat: NOT DETECTED"
    assert not Seen("socat", failure="TimeoutError: no listener").detected


def test_a_banner_counts_before_the_tunnel_is_used() -> None:
    def banner(milliseconds: int) -> Line:
        return Line(
            "detection",
            at(milliseconds),
            "network_protocol",
            7,
            Rule("SSH", "medium"),
            ApplicationProtocol="ssh",
            MessageKind="banner",
        )

    assert seen(banner(130)).banner
    assert not seen(banner(2001)).banner
    assert not seen(matched(130, "SSH client", category="process_creation")).banner


def test_the_rules_on_derived_events_are_found(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.yml").write_text("logsource: {product: linux, category: network_behavior}\n")
    (tmp_path / "b.yml").write_text("logsource: {product: linux, category: network_flow}\n")
    (tmp_path / "c.events.yaml").write_text("match: []\n")
    assert derived_rules(tmp_path) == [tmp_path / "in" / "a.yml"]
    assert {path.parent.name for path in derived_rules(SHIPPED)} >= {"tunnels", "mining", "lateral"}
