"""Rates: what each sandbox did in the last second, and which flows carried most. Counted only while somebody looks."""

from __future__ import annotations

import time
from itertools import islice
from typing import Any

from msgspec import Struct

from sensor.enrich.flowtable import Flow, Key
from sensor.operations.parts import Parts
from sensor.operations.views import shown_flow, text

LOOKED_NS = 5_000_000_000  # after the last question it is counted on for so long
FLOWS_AT_ONCE = 256  # asked of the kernel each second: some 3 us each
MOST_FLOWS = 4096  # the newest ones
MOST_SANDBOXES = 100
MOST_TALKERS = 20


class Rate(Struct):
    """Of one flow: what it had carried when it was last looked at, and how fast it went since the look before."""

    flow: Flow
    at_ns: int
    bytes_out: int
    bytes_in: int
    out_per_s: float = 0.0
    in_per_s: float = 0.0


class Top:
    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._asked_ns = 0
        self._rates: dict[Key, Rate] = {}
        self._turn: list[tuple[Key, Flow]] = []
        self._events: dict[int, dict[str, float]] = {}
        self._since_ns = 0

    def each_second(self, now_ns: int) -> None:
        """CLOCK_MONOTONIC."""
        tally, self._parts.pipeline.tally = self._parts.pipeline.tally, {}
        seconds = (now_ns - self._since_ns) / 1e9 if self._since_ns else 1.0
        self._since_ns = now_ns
        if not self._asked_ns or now_ns - self._asked_ns > LOOKED_NS:
            self._asked_ns = 0
            self._rates.clear()
            self._turn.clear()
            return
        self._events = {}
        for (sandbox_id, category), count in tally.items():
            self._events.setdefault(sandbox_id, {})[category] = round(count / max(seconds, 0.001), 1)
        self._look(now_ns)

    def answer(self, now_ns: int) -> dict[str, Any]:
        """Of a first question the rates are 0: nobody counted before it."""
        if not self._asked_ns:
            self._events = {}
        self._asked_ns = now_ns
        registry, reports = self._parts.enricher.sandboxes, self._parts.reports
        busy = {sandbox_id: sum(counts.values()) for sandbox_id, counts in self._events.items()}
        carried: dict[int, list[float]] = {}
        for rate in self._rates.values():
            total = carried.setdefault(rate.flow.sandbox_id, [0.0, 0.0])
            total[0] += rate.out_per_s
            total[1] += rate.in_per_s
        detections = self._parts.pipeline.detections
        live = registry.live()
        live.sort(
            key=lambda one: (detections.get(one.id, 0) > 0, busy.get(one.id, 0), sum(carried.get(one.id, ()))),
            reverse=True,
        )
        rows = []
        for sandbox in live[:MOST_SANDBOXES]:
            out, in_ = carried.get(sandbox.id, (0.0, 0.0))
            rows.append(
                reports.row(sandbox)
                | {
                    "events_per_s": busy.get(sandbox.id, 0.0),
                    "events": self._events.get(sandbox.id, {}),
                    "out_per_s": round(out, 1),
                    "in_per_s": round(in_, 1),
                }
            )
        return {
            "time_ns": time.time_ns(),
            "ring_used": reports.ring[0],
            "ring_size": reports.ring[1],
            "sandboxes": rows,
            "more": max(0, len(live) - len(rows)),
            "talkers": [self._talker(rate) for rate in self._talkers()],
        }

    def _look(self, now_ns: int) -> None:
        """At some flows, each in its turn."""
        living = self._parts.enricher.flows.table.living
        if not self._turn:
            self._turn = list(islice(reversed(living.items()), MOST_FLOWS))
            kept = {key for key, _ in self._turn}
            self._rates = {key: rate for key, rate in self._rates.items() if key in kept}
        for key, flow in self._turn[:FLOWS_AT_ONCE]:
            state = self._parts.flow(flow.slot) if key in living else None
            if state is None or state.cookie != flow.cookie:
                self._rates.pop(key, None)
                continue
            before = self._rates.get(key)
            if before is None:
                self._rates[key] = Rate(flow, now_ns, state.bytes_out, state.bytes_in)
                continue
            seconds = max((now_ns - before.at_ns) / 1e9, 0.001)
            before.out_per_s = max(0, state.bytes_out - before.bytes_out) / seconds
            before.in_per_s = max(0, state.bytes_in - before.bytes_in) / seconds
            before.at_ns, before.bytes_out, before.bytes_in = now_ns, state.bytes_out, state.bytes_in
        del self._turn[:FLOWS_AT_ONCE]

    def _talkers(self) -> list[Rate]:
        known = self._parts.enricher.sandboxes.by_id
        found = [rate for rate in self._rates.values() if rate.flow.sandbox_id in known]
        found.sort(key=lambda rate: (rate.out_per_s + rate.in_per_s, rate.bytes_out + rate.bytes_in), reverse=True)
        return [rate for rate in found[:MOST_TALKERS] if rate.bytes_out or rate.bytes_in]

    def _talker(self, rate: Rate) -> dict[str, Any]:
        process = self._parts.enricher.processes.get(rate.flow.tgid)
        return shown_flow(rate.flow) | {
            "process": text(process.image.rpartition("/")[2]) if process is not None else "",
            "sandbox": text(self._parts.enricher.sandboxes.by_id[rate.flow.sandbox_id].name),
            "sandbox_id": rate.flow.sandbox_id,
            "bytes_out": rate.bytes_out,
            "bytes_in": rate.bytes_in,
            "out_per_s": round(rate.out_per_s, 1),
            "in_per_s": round(rate.in_per_s, 1),
        }
