"""What the kernel leaves out changes no detection: a recorded stream and a large made one, with it and without."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from msgspec.structs import replace

from sensor.enrich.addresses import describe
from sensor.events.decode import Decoder
from sensor.events.layouts import Connect, Device, DeviceAttempt, Flag, Verdict
from sensor.recording import entries
from sensor.recording.file import Reader
from sensor.recording.player import Lines, Player
from sensor.rules.engine import Engine
from sensor.rules.pushdown import Pushdown
from sensor.rules.ruleset import Ruleset, load
from tests.enrich import records
from tests.enrich.records import BOX, START
from tests.recording.test_recording import timeless
from tests.rules.helpers import build, rule_text
from tests.test_pipeline import Run

TOP = Path(__file__).resolve().parents[2]
CORPUS = TOP / "tests/data/benign.pfr"
# Loud ones, and none that asks for a detector: so that much is told, and much can be left out.
LOUD = (
    ("network_connection", "DestinationPort: [22, 80, 443, 3333]"),
    ("network_connection", "DestinationIsLoopback: false\n  DestinationPort|lt: 100"),
    ("network_connection", "Verdict: would_refuse"),
    ("device_access", "DeviceClass: [fuse, nvidia]"),
    ("device_access", "Granted: false"),
    ("process_creation", "CommandLine|contains: e"),
)
COUNTED = """
title: many connects
id: 0b8f5b1e-6c5b-4a87-9d0c-5a4a3d1d7b11
level: high
correlation: {type: event_count, rules: [loud], timespan: 5m, condition: {gte: 40}, generate: true}
"""


def left_out(pushdown: Pushdown, record: Any) -> bool:
    """As probes/device.bpf.c, socket.bpf.c and flush.bpf.c decide."""
    if isinstance(record, DeviceAttempt):
        return record.verdict == Verdict.ALLOWED and Device(record.device_class).name.lower() in pushdown.devices
    if not isinstance(record, Connect) or record.verdict != Verdict.ALLOWED or not record.flags & Flag.REPEAT:
        return False
    local = describe(record.family, record.address).is_loopback
    ports = pushdown.local if local else pushdown.outward
    return ports is not None and record.port not in ports


@pytest.fixture(scope="module")
def shipped() -> Ruleset:
    return load([TOP / "rules"], None)


@pytest.fixture(scope="module")
def loud() -> Ruleset:
    texts = [rule_text(f"s:\n  {item}\ncondition: s", category) for category, item in LOUD]
    ruleset = build("name: loud\n" + texts[0], *texts[1:], COUNTED)
    assert ruleset.refused == ()
    return ruleset


class _Without(Player):
    """Hears what is sent alone."""

    def __init__(self, *stages: Any, pushdown: Pushdown) -> None:
        self.left_out = 0
        self._pushdown = pushdown
        self._peek = Decoder()
        super().__init__(*stages)

    def _record(self, buffer: bytes, at: int, length: int) -> None:
        place = entries.PLACE.size
        if left_out(self._pushdown, self._peek.decode(buffer, at + place, length - place)):
            self.left_out += 1
        else:
            super()._record(buffer, at, length)


def replayed(ruleset: Ruleset, pushdown: Pushdown) -> tuple[list[bytes], int]:
    told: list[bytes] = []
    with Reader(str(CORPUS)) as reader:
        player = _Without(reader, Engine(ruleset), Lines(None, told.append), pushdown=pushdown)
        for _ in player.play():
            pass
    return told, player.left_out


@pytest.mark.parametrize("rules", ["shipped", "loud"])
def test_the_benign_corpus(rules: str, request: pytest.FixtureRequest) -> None:
    ruleset: Ruleset = request.getfixturevalue(rules)
    everything, none = replayed(ruleset, Pushdown())
    told, _ = replayed(ruleset, ruleset.pushdown)
    assert none == 0
    assert told == everything
    assert everything


def stream(count: int) -> Iterator[Any]:
    """Execs, connects and their repeats, opens: of a few programs, over minutes."""
    chance = random.Random(7)  # noqa: S311 - variety, not secrets
    addresses = [bytes((10, 0, 0, n)) for n in range(12)] + [bytes((203, 0, 113, 9)), bytes((127, 0, 0, 1))]
    now = 12 * 10**9
    yield records.birth(BOX, b"/boxes/a\0")
    for _ in range(count):
        now += 10_000_000
        drawn = chance.random()
        if drawn < 0.05:
            yield replace(
                records.exec_(500, START, chance.choice([b"make\0all\0", b"sort\0x\0", b"env\0"])), time_ns=now
            )
        elif drawn < 0.75:
            made = records.connect(
                500, chance.choice(addresses), port=chance.choice((22, 53, 80, 443, 3333, 8080, 9000)),
                verdict=chance.choice((0, 0, 0, 2)), flags=chance.choice((0, Flag.REPEAT, Flag.REPEAT)),
                count=chance.randrange(1, 50),
            )  # fmt: skip
            yield replace(made, time_ns=now, first_ns=now - 1_000_000, last_ns=now)
        else:
            class_ = chance.choice((Device.NVIDIA, Device.FUSE, Device.OTHER, Device.TUN))
            verdict = chance.choice((Verdict.ALLOWED, Verdict.ALLOWED, Verdict.WOULD_REFUSE))
            granted = int(verdict == Verdict.ALLOWED)
            yield replace(records.device(500, 195, 0, int(class_), verdict=int(verdict)), time_ns=now, granted=granted)


def taken(folder: Path, engine: Engine, keep: Callable[[Any], bool]) -> tuple[list[bytes], int]:
    folder.mkdir()
    run = Run(folder, engine)
    run.acting.silent = True
    left = 0
    for number, record in enumerate(stream(12_000)):
        if keep(record):
            run.take(number * 8, record)
        else:
            left += 1
        if number % 100 == 0 and number:
            run.pipeline.tick(record.time_ns)
    lines = [timeless(line) for line in run.lines() if line["kind"] == "detection" and _clockless(line)]
    run.log.close()
    return lines, left


def _clockless(line: dict[str, Any]) -> bool:
    """The wall clock of the run, to which a correlation's monotonic times are added, is another each time."""
    for name in ("first", "last"):
        line.get("Correlation", {}).pop(name, None)
    return True


@pytest.mark.parametrize("rules", ["shipped", "loud"])
def test_a_large_stream(tmp_path: Path, rules: str, request: pytest.FixtureRequest) -> None:
    ruleset: Ruleset = request.getfixturevalue(rules)
    everything, none = taken(tmp_path / "all", Engine(ruleset), lambda _: True)
    told, left = taken(tmp_path / "some", Engine(ruleset), lambda record: not left_out(ruleset.pushdown, record))
    assert (none, told) == (0, everything)
    assert left > 500
    rule_ids = {orjson.loads(line)["rule"]["id"] for line in everything}
    assert len(rule_ids) >= (4 if rules == "loud" else 1)
