"""The bench's statistics, its alternation and its table. No times are judged here."""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import msgspec
import pytest

from tests.bench import harness
from tests.bench.__main__ import ALL, GROUPS, chosen, parse
from tests.bench.harness import BenchError, Figure, Peer, Rounds, at_least, at_most, unmeasured

CHANCE = random.Random(7)  # noqa: S311 (the order of arms, not secrets)


def test_percentile_is_a_sample_that_enough_samples_do_not_exceed() -> None:
    samples = [float(n) for n in range(1, 101)]
    assert harness.percentile(samples, 50) == 50
    assert harness.percentile(samples, 99) == 99
    assert harness.percentile(samples, 100) == 100
    assert harness.percentile([3.0, 1.0, 2.0], 99) == 3
    with pytest.raises(BenchError):
        harness.percentile([], 50)


def test_spread_is_half_the_quartile_distance() -> None:
    assert harness.half_quartile_range([1, 2, 3, 4, 5]) == 1
    assert harness.half_quartile_range([7]) == 0


def test_an_outlier_hardly_moves_the_interval_of_the_median() -> None:
    calm = [1.0, 1.1, 0.9, 1.05, 0.95] * 4
    low, high = harness.median_interval([*calm, 1000.0])
    assert 0.9 <= low <= 1.0 <= high <= 1.1
    assert harness.median_interval(calm) == harness.median_interval(calm)


def test_slowdown_is_against_both_baselines_of_the_same_round() -> None:
    rounds = Rounds(
        [
            {"off": {"exec": 100.0}, "again": {"exec": 100.0}, "on": {"exec": 110.0}},
            {"off": {"exec": 200.0}, "again": {"exec": 400.0}, "on": {"exec": 330.0}},
            {"off": {"exec": 100.0}, "on": {"exec": 500.0}},  # a baseline is missing: no pair, no sample
        ]
    )
    assert rounds.slowdown("on", "exec", ("off", "again")) == pytest.approx([10.0, 10.0])


def test_slowdown_of_an_arm_that_failed_tells_its_reason() -> None:
    rounds = Rounds([{"off": {"exec": 100.0}}], {"on": "no kernel"})
    with pytest.raises(BenchError, match="no kernel"):
        rounds.slowdown("on", "exec", ("off",))


def arm(events: list[str], name: str, fails: bool = False) -> Callable[[], AbstractContextManager[str]]:
    @contextmanager
    def enter() -> Iterator[str]:
        events.append(f"{name} begins")
        if fails:
            raise BenchError(f"{name} cannot run here")
        yield name
        events.append(f"{name} ends")

    return enter


def test_every_arm_runs_once_a_round_and_never_within_another() -> None:
    events: list[str] = []
    arms = {name: arm(events, name) for name in ("a", "b", "c")}
    result = harness.alternate(arms, lambda name, observer: {"w": 1.0}, 4, CHANCE, lambda _: None)
    assert [sorted(samples) for samples in result.samples] == [["a", "b", "c"]] * 4
    begins, ends = events[::2], events[1::2]
    assert [text.split()[0] for text in begins] == [text.split()[0] for text in ends]
    orders = {tuple(begins[at : at + 3]) for at in range(0, 12, 3)}
    assert len(orders) > 1


def test_an_arm_that_fails_is_left_out_and_stops_no_other() -> None:
    events: list[str] = []
    arms = {"good": arm(events, "good"), "bad": arm(events, "bad", fails=True)}
    result = harness.alternate(arms, lambda name, observer: {"w": 1.0}, 3, CHANCE, lambda _: None)
    assert result.failed == {"bad": "bad cannot run here"}
    assert events.count("bad begins") == 1
    assert [list(samples) for samples in result.samples] == [["good"]] * 3


def test_targets_are_met_at_the_limit_and_not_beyond() -> None:
    assert at_most("x", 3.0, "%", 3).met is True
    assert at_most("x", 3.01, "%", 3).met is False
    assert at_least("x", 5.0, "times", 5).met is True
    assert at_least("x", 4.99, "times", 5).met is False
    assert unmeasured("x", "%", "<= 3", "no reason").met is False
    assert unmeasured("x", "%", "-", "no reason").met is None


FIGURES = [
    at_most("exec-inside", 2.345, "% slower", 3, spread=0.5, peers={"auditd": Peer(17.9, 1.0), "strace": Peer(478.0)}),
    at_least("pipeline", 99_000.4, "events/s", 100_000, note="one core"),
    unmeasured("storm-exec", "lost", "<= 0", "the sensor\n did not \x1b[31mstart"),
    Figure("exec-beside", 0.1, "% slower", "-", None, peers={"bpftrace": Peer(None, note="not installed " * 20)}),
]


def test_the_table_keeps_its_width_and_loses_nothing() -> None:
    out = io.StringIO()
    harness.render(FIGURES, out)
    text = out.getvalue()
    assert max(map(len, text.splitlines())) <= harness.WIDTH
    assert "\x1b" not in text
    rows = {line.split()[0]: line for line in text.splitlines()[::-1] if line.strip()}
    assert "2.35" in rows["exec-inside"]
    assert "auditd 17.9, strace 478" in rows["exec-inside"]
    assert "NO" in rows["pipeline"]
    assert "99,000" in rows["pipeline"]
    assert "the sensor did not ?[31mstart" in text
    assert "not installed" in text


def test_json_has_the_promised_members() -> None:
    objects = msgspec.json.decode(msgspec.json.encode(FIGURES))
    for item in objects:
        assert {"name", "value", "unit", "target", "met", "spread", "peers"} <= item.keys()
    assert [item["met"] for item in objects] == [True, False, False, None]
    assert objects[2]["value"] is None


def test_figures_are_chosen_by_name_or_group() -> None:
    assert chosen([]) == set(ALL)
    assert chosen(["exec-inside", "start"]) == {"exec-inside", *GROUPS["start"][1]}
    assert len(ALL) == len(set(ALL))


def test_an_unknown_figure_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        parse(["--only", "no-such-figure"])
    assert refused.value.code == 2
    assert "no-such-figure" in capsys.readouterr().err
