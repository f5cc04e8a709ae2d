"""The flows that dissectors are timed with are what they are said to be, and no two are alike where none are."""

from __future__ import annotations

import subprocess
import sys

import msgspec
import pytest

from sensor.enrich.protocols.recognise import recognise
from tests.bench.dissect import Result, check
from tests.bench.flows import NOTHING, SHARES, Flow, Recorded
from tests.bench.harness import BenchError
from tests.bench.workspace import CHECKOUT


@pytest.fixture(scope="module")
def flows() -> list[Flow]:
    return Recorded(5).take(2000)


def test_the_shares_are_kept(flows: list[Flow]) -> None:
    assert sum(SHARES.values()) == 1000
    kinds = [flow.kind for flow in flows]
    assert {kind: kinds.count(kind) for kind in SHARES} == {kind: 2 * share for kind, share in SHARES.items()}


def test_the_same_seed_gives_the_same_flows() -> None:
    assert Recorded(3).take(300) == Recorded(3).take(300) != Recorded(4).take(300)


def test_every_known_protocol_is_told_on_both_sides(flows: list[Flow]) -> None:
    check(flows)
    for flow in flows:
        if flow.kind in NOTHING - {"random"}:
            assert recognise(flow.client, flow.udp) is None and recognise(flow.server, flow.udp) is None, flow.kind


def test_what_is_not_told_is_an_error() -> None:
    with pytest.raises(BenchError, match="the client's bytes of tls-go are told as nothing"):
        check([Flow(b"\0\0\0\x08\4\xd2\x16/", b"N", False, "tls-go")])


def test_what_differs_in_real_traffic_differs(flows: list[Flow]) -> None:
    for start in ("tls-", "dns", "wireguard", "random"):
        clients = [flow.client for flow in flows if flow.kind.startswith(start)]
        assert len(set(clients)) == len(clients), start
    shuffled = [recognise(flow.client, False) for flow in flows if flow.kind == "tls-rustls"]
    assert len({found.ja4 for found in shuffled if found}) == 1  # the fingerprint is not of the order


def test_the_measuring_process_reports() -> None:
    command = [sys.executable, "-m", "tests.bench.dissect", "0", "200", "2", "1"]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, check=True, timeout=120)
    result = msgspec.json.decode(done.stdout, type=Result)
    assert (len(result.rates), result.flows) == (2, 200)
    assert result.costs.keys() == SHARES.keys()
    assert min(*result.rates, *result.costs.values()) > 0
