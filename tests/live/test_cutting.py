"""A detection quarantines: all fifty processes cut off and frozen. How soon is packaging/bench's to say."""

from __future__ import annotations

from tests.live.cutting import PROCESSES, config, rounds
from tests.live.running import Running


def test_from_a_detection_to_fifty_processes_cut_off_and_frozen(rule_cache: str) -> None:
    with Running(config=config(["{home}/rules"]), cache=rule_cache) as sensor:
        found = rounds(sensor, 3)
        assert all(0 < each.cut < each.frozen for each in found), found
        assert all(each.cut_from_event > each.cut for each in found), "it is seen before it is judged"
        assert all(each.frozen_of >= PROCESSES for each in found), found
        assert sensor.metrics()['pinfold_quarantine_seconds_count{to="frozen"}'] == 3
