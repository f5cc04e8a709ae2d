from __future__ import annotations

import pytest

from sensor.configquarantine import Quarantine, quarantine_problems


def test_the_defaults_are_no_problem() -> None:
    assert list(quarantine_problems(Quarantine())) == []


@pytest.mark.parametrize(
    ("settings", "path", "expected"),
    [
        (Quarantine(freeze_seconds=0), "freeze_seconds", "1 to 600"),
        (Quarantine(destroy_seconds=61), "destroy_seconds", "1 to 60"),
        (Quarantine(keep_ended=-1), "keep_ended", "0 to 100000"),
        (Quarantine(evidence_total_bytes=1 << 20), "evidence_file_bytes", "no more than evidence_total_bytes"),
    ],
)
def test_what_is_out_of_bounds_is_named(settings: Quarantine, path: str, expected: str) -> None:
    (problem,) = quarantine_problems(settings)
    assert problem.path == ("quarantine", path)
    assert problem.expected == expected
