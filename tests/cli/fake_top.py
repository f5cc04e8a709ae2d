"""Plays the sensor for `pinfold top`: `python -m tests.cli.fake_top FOLDER [SANDBOXES]`, until its stdin ends. To be
looked at by hand, too."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from tests.cli.fake_api import serving

NOW_NS = 1_700_000_000_000_000_000


def told(sandboxes: int = 3) -> dict[str, Any]:
    states = ("detected", "clean", "unknown")
    return {
        "time_ns": NOW_NS,
        "ring_used": 1 << 20,
        "ring_size": 8 << 20,
        "lost": {"kernel/budget": 12, "log/ENOSPC": 3},
        "events_s": 1234.5,
        "sandboxes": [
            {
                "id": 4242 + number, "name": f"agent-{number}", "class": "agents", "state": states[number % 3],
                "quarantine": "q-7" if number == 1 else "", "processes": 3 + number, "events_s": 400.0 - number,
                "connects_s": 2.5, "bytes_out_s": 1_234_567 * number, "bytes_in_s": 998,
                "detections": 7 * (number == 0), "lost": 5 * (number == 2),
            }
            for number in range(sandboxes)
        ],
        "talkers": [
            {"sandbox": "agent-0", "process": "updater", "destination": "203.0.113.7:443", "bytes_out_s": 81234,
             "bytes_in_s": 12, "protocol": "ssh"},
            {"sandbox": "agent-1", "process": "python3", "destination": "[2001:db8::7]:8443", "bytes_out_s": 1,
             "bytes_in_s": 7_000_000, "protocol": "tls"},
        ],
        "detections": [
            {"time_ns": NOW_NS, "level": "critical", "rule": "A flow from outside is relayed inward, beyond doubt",
             "sandbox": "agent-0"},
            {"time_ns": NOW_NS, "level": "medium", "rule": "SSH client dials a port other than 22",
             "sandbox": "agent-0"},
        ],
    }  # fmt: skip


if __name__ == "__main__":
    with serving(Path(sys.argv[1])) as api:
        api.answers["GET /v1/top"] = (200, told(int(sys.argv[2]) if len(sys.argv) > 2 else 3))
        sys.stdin.read()
