"""Statistics, figures, the alternating runner and the table: what every figure of the bench shares."""

from __future__ import annotations

import random
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TextIO, TypeVar

from msgspec import Struct, field
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

WIDTH = 100  # columns of the table


class BenchError(Exception):
    """Something could not be measured. The message is one line and says why."""


class Peer(Struct, frozen=True):
    """What another tool shows for the same figure; `value` is None where it could not be measured."""

    value: float | None
    spread: float | None = None
    note: str = ""


class Figure(Struct, frozen=True):
    """One row. `met` is None where there is no target; a figure that could not be measured has no value
    and is not met. `spread` is in `unit`: half the distance between the quartiles, where there are samples."""

    name: str
    value: float | None
    unit: str
    target: str
    met: bool | None
    spread: float | None = None
    peers: dict[str, Peer] = field(default_factory=dict)
    note: str = ""


def at_most(
    name: str,
    value: float,
    unit: str,
    limit: float,
    *,
    spread: float | None = None,
    peers: Mapping[str, Peer] | None = None,
    note: str = "",
) -> Figure:
    return Figure(name, value, unit, f"<= {limit:g}", value <= limit, spread, dict(peers or {}), note)


def at_least(
    name: str,
    value: float,
    unit: str,
    limit: float,
    *,
    spread: float | None = None,
    peers: Mapping[str, Peer] | None = None,
    note: str = "",
) -> Figure:
    return Figure(name, value, unit, f">= {limit:g}", value >= limit, spread, dict(peers or {}), note)


def unmeasured(name: str, unit: str, target: str, reason: object, peers: Mapping[str, Peer] | None = None) -> Figure:
    """Not met, unless there is no target ("-")."""
    return Figure(name, None, unit, target, None if target == "-" else False, None, dict(peers or {}), one_line(reason))


def one_line(reason: object, most: int = 300) -> str:
    text = " ".join(str(reason).split()) or type(reason).__name__
    return "".join(c if c.isprintable() else "?" for c in text)[:most]


def half_quartile_range(samples: Sequence[float]) -> float:
    """Half the distance between the first and the third quartile; 0 for fewer than two samples."""
    if len(samples) < 2:
        return 0.0
    first, _, third = statistics.quantiles(samples, n=4, method="inclusive")
    return (third - first) / 2


def percentile(samples: Sequence[float], percent: float) -> float:
    """The smallest sample that at least `percent` % of all samples do not exceed (nearest rank)."""
    if not samples:
        raise BenchError("no samples")
    ordered = sorted(samples)
    rank = max(1, -(-len(ordered) * percent // 100))
    return ordered[int(rank) - 1]


def median_interval(samples: Sequence[float], seed: int = 1, draws: int = 2000) -> tuple[float, float]:
    """The 95 % bootstrap interval of the median: how far chance alone moves it."""
    if not samples:
        raise BenchError("no samples")
    chance = random.Random(seed)  # noqa: S311 (statistics, not secrets)
    medians = sorted(statistics.median(chance.choices(samples, k=len(samples))) for _ in range(draws))
    return medians[int(draws * 0.025)], medians[int(draws * 0.975) - 1]


# One arm's measurements of one round: workload → nanoseconds per operation.
Measurements = dict[str, float]


class Rounds(Struct):
    """What the arms measured, round by round, and why an arm stopped taking part."""

    samples: list[dict[str, Measurements]] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    def slowdown(self, arm: str, workload: str, baselines: Sequence[str]) -> list[float]:
        """Percent by which `arm` was slower than the mean of `baselines`, each against its own round.

        Pairing within a round cancels what drifts over minutes: clocks, neighbours, page cache."""
        percents = []
        for measured in self.samples:
            base = [measured[b][workload] for b in baselines if workload in measured.get(b, {})]
            if len(base) == len(baselines) and workload in measured.get(arm, {}):
                percents.append((measured[arm][workload] / statistics.fmean(base) - 1) * 100)
        if not percents:
            raise BenchError(self.failed.get(arm) or next(iter(self.failed.values()), f"{arm} never ran {workload}"))
        return percents


Observer = TypeVar("Observer")


def alternate(
    arms: Mapping[str, Callable[[], AbstractContextManager[Observer]]],
    measure: Callable[[str, Observer], Measurements],
    rounds: int,
    chance: random.Random,
    tell: Callable[[str], None],
) -> Rounds:
    """Runs every arm once a round, in an order drawn anew each round. An arm that fails is left out from then
    on and its reason kept; the others go on."""
    result = Rounds()
    for number in range(1, rounds + 1):
        order = [arm for arm in arms if arm not in result.failed]
        chance.shuffle(order)
        tell(f"round {number} of {rounds}: {' '.join(order)}")
        measured: dict[str, Measurements] = {}
        for arm in order:
            try:
                with arms[arm]() as observer:
                    measured[arm] = measure(arm, observer)
            except (BenchError, OSError) as error:
                result.failed[arm] = one_line(error)
                tell(f"{arm} left out: {result.failed[arm]}")
        result.samples.append(measured)
    return result


def render(figures: Iterable[Figure], out: TextIO = sys.stdout) -> None:
    """The table, WIDTH columns at most, and below it what the rows could not hold."""
    figures = list(figures)
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for heading in ("name", "value", "unit", "target", "met", "spread", "peers"):
        right = heading in {"value", "spread"}
        table.add_column(heading, justify="right" if right else "left", no_wrap=heading not in {"peers"})
    for figure in figures:
        table.add_row(
            figure.name,
            _number(figure.value),
            figure.unit,
            figure.target,
            {True: "yes", False: "NO", None: "-"}[figure.met],
            _number(figure.spread),
            _peers(figure),
        )
    console = Console(file=out, width=WIDTH, highlight=False, markup=False, emoji=False)
    console.print(table)
    for figure in figures:
        if figure.note:
            console.print(f"{figure.name}: {figure.note}", style=None)
        for name, peer in figure.peers.items():
            if peer.note:
                console.print(f"{figure.name}, {name}: {peer.note}")


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    if value == int(value) and abs(value) < 1e6:
        return f"{value:.0f}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _peers(figure: Figure) -> str:
    return ", ".join(f"{name} {_number(peer.value)}" for name, peer in figure.peers.items())
