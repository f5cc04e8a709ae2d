"""A permitted client of the control socket that asks as fast as it is told to, beside others who may not, and a sandbox
that works meanwhile."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from msgspec import Struct, field

from tests.live.names import unique
from tests.live.running import Running, Sandbox

NOBODY = 65534
MARKER = "pfasked"
# Socket, seconds, rate, connections: what was answered, by status; how often it had to connect; latencies.
CLIENT = """
import json, select, socket, sys, time
path, seconds, rate, count = sys.argv[1], float(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
pages = ("/v1/status", "/v1/sandboxes", "/v1/rules", "/v1/quarantines", "/v1/top")
asks = [f"GET {page} HTTP/1.1\\r\\nHost: pinfold\\r\\n\\r\\n".encode() for page in pages]
statuses, connects, latencies = {}, 0, []

class Line:
    def __init__(self):
        self.connect()
    def connect(self):
        global connects
        connects += 1
        self.end = socket.socket(socket.AF_UNIX)
        self.end.connect(path)  # blocking: where the flood has the backlog, it waits for its turn
        self.end.settimeout(10)
        self.data, self.asked = b"", 0.0
    def again(self):
        self.end.close()
        statuses["closed"] = statuses.get("closed", 0) + bool(self.asked)
        self.connect()
    def ask(self, request):
        self.asked = time.monotonic()
        try:
            self.end.sendall(request)
        except OSError:
            self.again()
    def read(self):
        try:
            piece = self.end.recv(1 << 20)
        except OSError:
            piece = b""
        if not piece:
            return self.again()
        self.data += piece
        head, found, body = self.data.partition(b"\\r\\n\\r\\n")
        if not found:
            return
        length = next(int(one[15:]) for one in head.split(b"\\r\\n") if one.lower().startswith(b"content-length:"))
        if len(body) >= length:
            status = head[9:12].decode()
            statuses[status] = statuses.get(status, 0) + 1
            latencies.append(time.monotonic() - self.asked)
            self.data, self.asked = b"", 0.0

lines = [Line() for _ in range(count)]
began = time.monotonic()
asked = 0
while (now := time.monotonic()) < began + seconds:
    due = int((now - began) * rate) + 1 - asked
    for line in lines:
        if due > 0 and not line.asked:
            line.ask(asks[asked % len(asks)])
            asked += 1
            due -= 1
    waiting = {line.end: line for line in lines}
    for end in select.select(list(waiting), [], [], 0.0005)[0]:
        waiting[end].read()
latencies.sort()
at = lambda part: latencies[int(len(latencies) * part)] if latencies else 0.0
print(json.dumps({"statuses": statuses, "connects": connects, "seconds": time.monotonic() - began,
                  "asked": asked, "p50_ms": at(0.5) * 1000, "p99_ms": at(0.99) * 1000}))
"""
# Until it is killed: connects to each, says what nobody understands, and hangs up or does not.
FLOOD = """
import os, socket, sys, time
places = sys.argv[2:]
report, tried, last, kept = sys.argv[1], 0, time.monotonic(), []
while True:
    for place in places:
        tried += 1
        end = socket.socket(socket.AF_INET if place.isdigit() else socket.AF_UNIX)
        end.settimeout(0.2)
        try:
            end.connect(("127.0.0.1", int(place)) if place.isdigit() else place)
            end.send(b"GET /v1/status HTTP/1.1\\r\\n" if tried % 2 else os.urandom(512))
        except OSError:
            pass
        kept.append(end)
        if len(kept) > 64:
            kept.pop(0).close()
    if time.monotonic() > last + 0.2:
        last = time.monotonic()
        with open(report, "w") as file:
            file.write(str(tried))
"""
PYTHON = ("/usr/bin/python3", "-I", "-S")


class Report(Struct):
    """`missing` and `doubled`: numbered programs in the log. `lost`: by the sensor's own count."""

    asked: dict[str, Any] = field(default_factory=dict)
    flooded: int = 0
    refused: dict[str, float] = field(default_factory=dict)
    ran: int = 0
    missing: int = 0
    doubled: int = 0
    lost: dict[str, float] = field(default_factory=dict)

    @property
    def served_per_s(self) -> float:
        return float(self.asked["statuses"].get("200", 0)) / float(self.asked["seconds"])


def ask_again_and_again(sensor: Running, workloads: Path, *, seconds: float, rate: float, pause_us: int) -> Report:
    """One permitted client, two floods from those who may not, and a program each `pause_us` in a sandbox."""
    control = str(sensor.home / "run" / "control.sock")
    with sensor.sandbox() as busy, sensor.sandbox(f"plain-{unique()}") as hostile, contextlib.ExitStack() as stack:
        tallies = [sensor.home / "flood-inside", Path(f"/dev/shm/pinfold-{unique()}")]
        stack.callback(tallies[1].unlink, missing_ok=True)
        tallies[1].touch()
        os.chown(tallies[1], NOBODY, NOBODY)
        stack.enter_context(_killed(_flood(tallies[0], [control], hostile)))
        stack.enter_context(_killed(_flood(tallies[1], [control, str(sensor.port)], None)))
        sensor.until(lambda: all(tally.exists() and tally.read_text() for tally in tallies), "both floods")
        storm = [str(workloads / "execstorm"), "-P", "1", "-t", str(seconds), "-i", str(pause_us), "-m", MARKER]
        working = busy.start(*storm, stdout=subprocess.PIPE)
        command = [sys.executable, "-I", "-S", "-c", CLIENT, control, str(seconds), str(rate), "8"]
        asked = subprocess.run(command, capture_output=True, check=True, timeout=seconds + 60)
        ran = json.loads(working.communicate(timeout=60)[0])
        flooded = sum(int(tally.read_text() or 0) for tally in tallies)
    report = Report(json.loads(asked.stdout), flooded, ran=int(ran["count"]))
    report.missing, report.doubled = _account(sensor, ran)
    report.lost = sensor.lost()
    report.refused = {name: value for name, value in sensor.metrics().items() if "api_refused" in name and value}
    return report


def _flood(tally: Path, places: Iterable[str], box: Sandbox | None) -> subprocess.Popen[bytes]:
    command = [*PYTHON, "-c", FLOOD, str(tally), *places]
    if box is not None:
        return box.start(*command)
    return subprocess.Popen(command, user=NOBODY, group=NOBODY, extra_groups=[])


@contextlib.contextmanager
def _killed(process: subprocess.Popen[bytes]) -> Iterator[None]:
    try:
        yield
    finally:
        process.kill()
        process.wait()


def _account(sensor: Running, ran: dict[str, Any]) -> tuple[int, int]:
    """Until the log has them all, or has stood still for as long as it may be behind."""
    from tests.bench.storms import account  # noqa: PLC0415 - the bench's own way of counting

    until, size = time.monotonic() + 5, -1
    while True:
        lines = [line for path in sensor.log.parent.glob("events.jsonl*") for line in path.read_bytes().splitlines()]
        missing, doubled = account(lines, MARKER, ran)
        if len(lines) != size:
            until, size = time.monotonic() + 5, len(lines)
        if not missing or time.monotonic() > until:
            return missing, doubled
        time.sleep(0.2)
