"""Sockets of denied flows: which are asked for when, and what follows on each answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, cast

import pytest

from sensor.cuts import TRIES, Cuts
from sensor.enrich.flowtable import FlowTable, of_record
from sensor.enrich.processes import ProcessTable
from sensor.events.activity import NetworkFlow
from sensor.metrics import Metrics
from sensor.respond.sockets import Destroyer, Request, Response, Result
from tests.detect.scene import make
from tests.enrich.records import BOX, flow

LATE, DONE = Result("failed", "not done in time", late=True), Result("destroyed")


class Child:
    """In the destroyer's place: answers with `answers`, the last of them again and again, at the next poll. It comes no
    further than to the socket of the cookie `stuck`."""

    def __init__(self, *answers: Result) -> None:
        self.answers = list(answers)
        self.stuck = 0
        self.asked: list[tuple[int, ...]] = []
        self._now: list[Request] = []

    @property
    def idle(self) -> bool:
        return not self._now

    def start(self, request: Request, _: int) -> bool:
        self.asked.append(tuple(each.cookie for each in request.sockets))
        self._now.append(request)
        return True

    def poll(self, _: int) -> list[Response]:
        requests, self._now = self._now, []
        if not requests:
            return []
        result = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return [Response(each, tuple(self._results(each, result))) for each in requests]

    def _results(self, request: Request, result: Result) -> Iterator[Result]:
        for each in request.sockets:
            result = LATE if each.cookie == self.stuck else result
            yield result


class Bench:
    def __init__(self, *answers: Result) -> None:
        self.child, self.metrics, self.notices = Child(*answers), Metrics(), list[str]()
        self.flows = FlowTable(16, Counter())
        self.cuts = Cuts(self.flows, ProcessTable(16), self.metrics, self._told, cast(Destroyer, self.child))

    def _told(self, text: str, **_: Any) -> None:
        self.notices.append(text)

    def cut(self, cookie: int, protocol: int = 6) -> None:
        record = flow(100, bytes((203, 0, 113, 10)), cookie=cookie, protocol=protocol)
        self.flows.add((cookie, record.started_ns), of_record(record))
        self.cuts.add(
            make(NetworkFlow, SandboxId=BOX, SocketCookie=cookie, SourceIp="10.0.0.2", DestinationIp="203.0.113.10")
        )

    def settle(self) -> None:
        for turn in range(100):
            if not self.cuts.busy:
                return
            self.cuts.tick(turn)
        raise AssertionError("it never ends")

    def counted(self, outcome: str) -> float:
        return self.metrics.value("pinfold_sockets_destroyed_total", (outcome,))


def test_it_is_destroyed_and_told_once() -> None:
    bench = Bench(DONE)
    bench.cut(1)
    bench.settle()
    assert bench.child.asked == [(1,)]
    assert bench.notices == ["the socket of a denied flow was destroyed"]
    assert bench.counted("destroyed") == 1


def test_what_is_cut_meanwhile_goes_with_the_next() -> None:
    bench = Bench(DONE)
    bench.cut(1)
    bench.cuts.tick(0)
    bench.cut(2)
    bench.cut(3)
    bench.settle()
    assert bench.child.asked == [(1,), (2, 3)]
    assert bench.counted("destroyed") == 3


def test_a_child_that_was_late_is_asked_again() -> None:
    bench = Bench(LATE, LATE, DONE)
    bench.cut(1)
    bench.cut(2)
    bench.settle()
    assert bench.child.asked == [(1, 2), (2, 1), (1, 2)]
    assert bench.notices == ["the socket of a denied flow was destroyed"] * 2
    assert (bench.counted("destroyed"), bench.counted("failed")) == (2, 0)


def test_but_not_for_ever() -> None:
    """A sandbox can keep the lock of its own socket as long as it likes."""
    bench = Bench(LATE)
    bench.cut(1)
    bench.settle()
    assert bench.child.asked == [(1,)] * TRIES
    assert bench.notices == ["the socket of a denied flow could not be destroyed: not done in time"]
    assert bench.counted("failed") == 1


def test_a_socket_that_keeps_the_child_keeps_it_from_no_other_one() -> None:
    bench = Bench(DONE)
    bench.child.stuck = 1
    for cookie in (1, 2, 3):
        bench.cut(cookie)
    bench.settle()
    assert bench.child.asked == [(1, 2, 3), (2, 3, 1), (1,), (1,), (1,)]
    assert (bench.counted("destroyed"), bench.counted("failed")) == (2, 1)


@pytest.mark.parametrize("result", [Result("gone"), Result("unsupported", "x"), Result("failed", "x")])
def test_what_was_found_out_is_not_asked_again(result: Result) -> None:
    bench = Bench(result)
    bench.cut(1)
    bench.settle()
    assert bench.child.asked == [(1,)]
    assert bench.counted(result.outcome) == 1


def test_a_sweep_is_no_answer_to_what_was_asked_beside_it() -> None:
    bench = Bench(LATE, DONE)
    bench.cut(1)
    bench.cuts.tick(0)
    bench.cuts.sweep(BOX, 4711)
    bench.settle()
    assert bench.child.asked == [(1,), (), (1,)]
    assert bench.counted("destroyed") == 1


def test_what_is_no_flow_of_ours_or_neither_tcp_nor_udp_is_left_alone() -> None:
    bench = Bench(DONE)
    bench.cut(1, protocol=1)
    bench.cuts.add(make(NetworkFlow, SandboxId=BOX, SocketCookie=99))
    assert not bench.cuts.busy
