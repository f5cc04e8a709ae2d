"""Refused before any effect, tried many times; packaging/bench tries more."""

from __future__ import annotations

from tests.live.refusing import DENIED, refuse_again_and_again


def test_no_packet_leaves_and_no_descriptor_is_returned(rule_cache: str) -> None:
    report = refuse_again_and_again(40, cache=rule_cache)
    assert report.seen >= len(DENIED) - 1, "what is allowed is seen at the peer"
    assert not any(report.leaked.values()), report.leaked
    assert sum(report.tried.values()) > 20 * 40
