"""What the shipped rules say of harmless work: detections at medium or above over the benign corpus, replayed.

The recording is the committed one (tests/benign makes it afresh); it goes through decoder, enrichment, detectors and
rules in a process of its own, as `pinfold rules test --baseline` has it."""

from __future__ import annotations

import time

from sensor.cli.rulesbaseline import Baseline, baseline
from sensor.errors import PinfoldError
from tests.bench.harness import Figure, at_most, one_line, unmeasured
from tests.bench.latency import SHIPPED
from tests.bench.workspace import CHECKOUT, Workspace

CORPUS = "benign-corpus"
NAMES = (CORPUS,)
UNIT = "detections"
RECORDING = CHECKOUT / "tests" / "data" / "benign.pfr"


def run(_: Workspace, __: set[str]) -> list[Figure]:
    began = time.perf_counter()
    try:
        found = baseline(str(RECORDING), [str(SHIPPED)])
    except (PinfoldError, OSError) as error:
        return [unmeasured(CORPUS, UNIT, "<= 0", error)]
    return [figure(found, time.perf_counter() - began)]


def figure(found: Baseline, seconds: float) -> Figure:
    """A corpus that was cut short, or says nothing, shows nothing."""
    if not found.whole or not found.events:
        return unmeasured(CORPUS, UNIT, "<= 0", "the recording is not whole")
    loud = [one for one in found.fired if one.alarming]
    named = one_line(", ".join(f"{one.title} ({one.level}, {one.count})" for one in loud) or "none at medium or above")
    quiet = sum(one.count for one in found.fired if not one.alarming)
    note = f"{found.events} events of the benign set in {seconds:.1f} s, rules compiled within; {named}; {quiet} below"
    return at_most(CORPUS, float(sum(one.count for one in loud)), UNIT, 0, note=note)
