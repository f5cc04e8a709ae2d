"""The daemon itself killed while quarantines begin and end; packaging/bench has a hundred kills."""

from __future__ import annotations

import random

from tests.live.downfalls import kill_again_and_again
from tests.live.running import Running


def test_ledger_and_kernel_agree_after_each_start(rule_cache: str) -> None:
    with Running(cache=rule_cache) as running:
        report = kill_again_and_again(running, random.Random(11), kills=6, quarantines=4)  # noqa: S311 - moments
    assert report.wrong == []
    assert report.kills >= 6 and len(report.done) == 8
