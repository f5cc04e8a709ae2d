"""Leaving a sandbox's cgroup, and attempts on the sensor: what the records mean."""

from __future__ import annotations

import pytest

from sensor.config import Config, SandboxPattern, complete
from sensor.enrich.enricher import Enricher
from sensor.enrich.escapes import INIT_USER_NS
from sensor.events.activity import SensorAccess
from sensor.events.layouts import Flag
from tests.enrich import records
from tests.enrich.records import BOX, OTHER_BOX, START


@pytest.fixture
def enricher() -> Enricher:
    made = Enricher(complete(Config(sandboxes=(SandboxPattern("boxes/*"),))), "/nonexistent")
    for number, name in ((BOX, b"/boxes/a\0"), (OTHER_BOX, b"/boxes/b\0")):
        made.apply(records.birth(number, name), 1, 8)
    made.apply(records.exec_(500, START, b"sh\0", "/usr/bin/sh"), 1, 16)
    made.apply(records.exec_(501, START, b"agent\0", "/usr/bin/agent"), 1, 24)
    return made


@pytest.mark.parametrize(
    ("previous", "destination", "mover", "told"),
    [
        (BOX, 0, (BOX, 500), ("left", True, "/usr/bin/sh")),
        (BOX, 0, (BOX, 501), ("left", True, "/usr/bin/agent")),
        (BOX, OTHER_BOX, (BOX, 501), ("left", True, "/usr/bin/agent")),
        (BOX, 0, (0, 1), ("left", False, "")),
        (0, BOX, (BOX, 501), ("entered", True, "/usr/bin/agent")),
        (0, BOX, (0, 66), None),
        (BOX, BOX, (BOX, 500), None),
    ],
)
def test_a_move_is_a_migration_where_a_border_was_crossed_from_within(
    enricher: Enricher, previous: int, destination: int, mover: tuple[int, int], told: tuple[str, bool, str] | None
) -> None:
    move = records.move(500, START, previous=previous, destination=destination, cgroup=77, mover=mover)
    enricher.apply(move, 1, 32)
    found = enricher.escapes.migration(move, 1, 33)
    assert (found and (found.Direction, found.MoverSandboxed, found.MoverImage)) == told
    if found is not None:
        assert (found.Image, found.ProcessId, found.SandboxName, found.Way) == ("/usr/bin/sh", 500, "boxes/a", "moved")
        assert (found.PreviousSandboxId, found.DestinationSandboxId) == (previous, destination)


def test_a_child_born_outside_has_left(enricher: Enricher) -> None:
    fork = records.fork(502, START, (500, START))
    inside = {name: getattr(fork, name) for name in fork.__struct_fields__}
    for flags, left in ((0, False), (Flag.CLONE_INTO, False), (Flag.CLONE_INTO | Flag.MIGRATED, True)):
        born = type(fork)(**(inside | {"flags": int(flags), "cgroup_id": 77}))
        enricher.apply(born, 1, 40)
        found = enricher.escapes.migration(born, 1, 41)
        assert (found is not None) is left
    assert found is not None
    assert (found.Way, found.ProcessId, found.MoverProcessId, found.MoverSandboxed) == ("cloned", 502, 500, True)


@pytest.mark.parametrize(
    ("record", "told"),
    [
        (records.access(500, 1, 9), ("signal", 9, "core", False, False)),
        (records.access(500, 1, 18, result=1), ("signal", 18, "core", False, False)),
        (records.access(500, 1, 9, target=999), ("signal", 9, "", False, False)),
        (records.access(500, 2, 39, target=0, user_ns=INIT_USER_NS), ("bpf", 0, "", False, True)),
        (records.access(500, 2, 39, target=0, user_ns=INIT_USER_NS, result=-1), ("bpf", 0, "", True, False)),
        (records.access(500, 2, 39, target=0, user_ns=4026532000), ("bpf", 0, "", False, False)),
        (records.access(500, 2, 38, target=0, result=-1), ("perfmon", 0, "", True, False)),
    ],
)
def test_an_attempt_on_the_sensor_names_who_and_what(
    enricher: Enricher, record: object, told: tuple[str, int, str, bool, bool]
) -> None:
    enricher.escapes.guarded = {700: "core"}
    found = enricher.apply(record, 1, 48)  # type: ignore[arg-type]
    assert isinstance(found, SensorAccess)
    assert (found.Attempt, found.Signal, found.Target, found.Refused, found.Privileged) == told
    assert (found.Image, found.SandboxName) == ("/usr/bin/sh", "boxes/a")
