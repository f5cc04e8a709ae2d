"""The rules about system calls ask for what the probes tell: examples are records that the sensor would make."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from sensor.enrich.calls import CAPABILITIES, action_of
from sensor.events.callnames import NUMBERS
from sensor.events.layouts import Seen
from sensor.rules.testing import examples_file

ROOT = Path(__file__).resolve().parents[2]
SEEN = {
    "cap_capable": Seen.CAPABILITY,
    "signal_generate": Seen.SIGNAL,
    "io_uring_create": Seen.IO_URING,
    "sched_process_fork": Seen.FORK,
    "sys_enter": Seen.ENTRY,
}


def about_calls() -> list[Path]:
    rules = sorted((ROOT / "rules").rglob("*.yml"))
    return [path for path in rules if re.search(r"^ +category: system_call$", path.read_text(), re.MULTILINE)]


RULES = about_calls()


def told_capabilities() -> set[str]:
    source = (ROOT / "probes/calls.bpf.c").read_text()
    found = re.search(r"#define PF_CAPS (0x[0-9a-f]+)ULL", source)
    assert found
    return {f"CAP_{name}" for number, name in enumerate(CAPABILITIES) if int(found[1], 16) >> number & 1}


TOLD = told_capabilities()


def named(item: Any, field: str) -> Iterator[str]:
    """What a rule's detection asks of a field, anywhere in it."""
    if isinstance(item, list):
        for part in item:
            yield from named(part, field)
    elif isinstance(item, dict):
        for name, value in item.items():
            if name == field:
                yield from value if isinstance(value, list) else [value]
            else:
                yield from named(value, field)


@pytest.mark.parametrize("path", RULES, ids=lambda path: path.stem)
def test_calls_and_capabilities_are_those_that_are_told(path: Path) -> None:
    detection = yaml.safe_load(path.read_text())["detection"]
    assert set(named(detection, "SystemCall")) <= NUMBERS.keys()
    assert set(named(detection, "Capability")) - {""} <= TOLD


@pytest.mark.parametrize("path", RULES, ids=lambda path: path.stem)
def test_what_matches_is_what_the_sensor_makes_of_a_record(path: Path) -> None:
    events = [item["event"] for item in yaml.safe_load(examples_file(path).read_text())["match"]]
    for event in events:
        call, capability = event.get("SystemCall", ""), event.get("Capability", "")
        seen = SEEN[event.get("Mechanism", "cap_capable")]
        if seen == Seen.CAPABILITY and not capability:
            assert event["Action"] == "namespace", "nothing else is told without a capability"
            seen = Seen.USER_NS
        arguments = [int(word, 16) for word in event.get("Arguments", "").split()] or [0]
        if event["Action"] == "packet_socket":
            arguments[0] = 17
        assert not capability or capability in TOLD
        assert event["Action"] == action_of(NUMBERS[call], (*arguments,), capability.removeprefix("CAP_"), seen)
        assert (event["Action"], capability) != ("other", "CAP_SYS_ADMIN"), "asked for too often to be told"
    mechanisms = {event.get("Mechanism", "cap_capable") for event in events}
    assert mechanisms != {"sys_enter"}, "never seen where system calls are not watched at their gate"
