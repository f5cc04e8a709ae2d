"""The child is asked, waited for by nobody, and killed when a sandbox stalls it. Scripts stand in for it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator

import pytest

from sensor.files.marker import Answer, Look, Marker

HEAD = "import json,struct,sys,time,os\n"
SAY = "def say(**a):\n b=json.dumps(a).encode(); os.write(1,struct.pack('=I',len(b))+b)\n"
READY = HEAD + SAY + "sys.stdin.readline(); say(status='ready')\n"
GOOD = READY + "for line in sys.stdin:\n say(status='done',view=[1,2,json.loads(line)[0]])\n"
TURN = READY + "for line in sys.stdin:\n t=json.loads(line)[0]\n if t==2: {}\n say(status='done',view=[1,2,t])\n"
STALLS_AT_2, ENDS_AT_2 = TURN.replace("{}", "time.sleep(600)"), TURN.replace("{}", "sys.exit()")
BABBLES = READY + "for line in sys.stdin: os.write(1,b'\\xff'*4096)\n"
LIES = READY + "for line in sys.stdin: say(status='done',view='all',marks=7)\n"
SILENT = "import time; time.sleep(600)"
GONE = "raise SystemExit"


def look(tgid: int) -> Look:
    return Look(sandbox_id=tgid, tgid=tgid, start_ns=0, whole=True, since_ns=0)


@pytest.fixture
def null() -> Iterator[int]:
    descriptor = os.open(os.devnull, os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


def run(marker: Marker, count: int) -> list[tuple[int, str]]:
    """(tgid, status) of so many answers, in their order."""
    answers: list[tuple[Look, Answer]] = []
    until = time.monotonic() + 30
    try:
        while len(answers) < count:
            assert time.monotonic() < until, answers
            answers += marker.poll(time.monotonic_ns())
            time.sleep(0.002)
    finally:
        marker.close()
    return [(asked.tgid, answer.status) for asked, answer in answers]


def marker(null: int, code: str, start_ms: int = 10_000) -> Marker:
    made = Marker(null, b"{}", 300, [sys.executable, "-I", "-S", "-c", code], start_ms)
    for tgid in (1, 2, 3):
        made.ask(look(tgid))
    return made


def test_answers_come_in_order(null: int) -> None:
    assert run(marker(null, GOOD), 3) == [(1, "done"), (2, "done"), (3, "done")]


@pytest.mark.parametrize("code", [STALLS_AT_2, ENDS_AT_2])
def test_one_that_stalls_costs_the_others_nothing(null: int, code: str) -> None:
    assert run(marker(null, code), 3) == [(1, "done"), (2, "stalled"), (3, "done")]


@pytest.mark.parametrize("code", [BABBLES, LIES])
def test_what_is_no_answer_is_believed_by_nobody(null: int, code: str) -> None:
    assert run(marker(null, code), 3) == [(1, "stalled"), (2, "stalled"), (3, "stalled")]


@pytest.mark.parametrize("code", [SILENT, GONE])
def test_a_child_that_never_starts(null: int, code: str) -> None:
    assert run(marker(null, code, start_ms=300), 3) == [(1, "stalled"), (2, "stalled"), (3, "stalled")]


def test_a_command_that_is_not_there(null: int) -> None:
    made = Marker(null, b"{}", 300, ["/nonexistent"])
    made.ask(look(1))
    assert run(made, 1) == [(1, "stalled")]


def test_the_queue_is_bounded(null: int) -> None:
    made = Marker(null, b"{}", 300, ["/nonexistent"])
    asked = [made.ask(look(number)) for number in range(2000)]
    assert sum(asked) == 1024 and made.counters["not_queued"] == 976
