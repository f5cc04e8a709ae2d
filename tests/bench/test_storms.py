"""Losses are counted operation by operation, in pinfold's log as in a peer's output."""

from __future__ import annotations

from typing import Any

from tests.bench.storms import account, connects


def report(*done: int, killed: int = 0) -> dict[str, Any]:
    return {"workers": [{"done": count, "failed": 0, "killed": killed} for count in done]}


def line(argument: str, category: str = "process_creation") -> bytes:
    return b'{"v":1,"kind":"event","category":"%b","id":"1-2","CommandLine":"/bin/true %b"}\n' % (
        category.encode(),
        argument.encode(),
    )


def test_every_numbered_exec_is_accounted_for() -> None:
    lines = [line(f"pf-{worker}-{k}") for worker in range(2) for k in range(3)]
    assert account(lines, "pf", report(3, 3)) == (0, 0)
    assert account(lines[1:], "pf", report(3, 3)) == (1, 0)
    assert account([*lines, lines[0]], "pf", report(3, 3)) == (0, 1)


def test_a_killed_exec_was_recorded_too() -> None:
    assert account([line("pf-0-0"), line("pf-0-1")], "pf", report(1, killed=1)) == (0, 0)


def test_only_the_start_of_a_process_counts_in_pinfolds_log() -> None:
    assert account([line("pf-0-0"), line("pf-0-0", "process_termination")], "pf", report(1)) == (0, 0)


def test_a_peers_lines_count_as_they_are() -> None:
    assert account([b"4711 true /bin/true pf-0-0\n", b"other-pf-0-1x\n"], "pf", report(2)) == (1, 0)


def test_connects_are_those_that_connectstorm_makes() -> None:
    made = connects(report(20_001, 1))
    assert len(made) == 20_002
    assert (b"127.1.0.1", 10_000) in made
    assert (b"127.1.0.1", 29_999) in made
    assert (b"127.1.0.2", 10_000) in made
    assert (b"127.2.0.1", 10_000) in made
