"""A crowd with connections to outside, quarantined by the operator's command, evidence and all."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import time

from msgspec import Struct

from sensor.control.client import Client
from sensor.respond.evidence.verify import manifest, verify
from tests.live.peers.network import SERVER, Network
from tests.live.peers.programs import Program, until
from tests.live.running import Running, Sandbox

PATIENCE_S = 60
CROWD = """
import os, signal, socket, sys
address, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
for _ in range(count - 1):
    if not os.fork():
        break
end = socket.create_connection((address, port), 60)
signal.pause()
"""


class Held(Struct, frozen=True):
    """`seconds`: of the command. `took`: of each step, in the order of the steps."""

    seconds: float
    took: dict[str, float]
    destroyed: str
    resets: int  # at the peer
    evidence: str  # what the manifest says is in it
    wrong: tuple[str, ...]


def hold(sensor: Running, processes: int) -> Held:
    """Of a sandbox with so many processes, each with a connection; killed afterwards."""
    with (
        Network() as network,
        sensor.sandbox() as box,
        network.outside.call(lambda: socket.create_server((SERVER, 0), backlog=processes)) as server,
        contextlib.ExitStack() as accepted,
    ):
        server.settimeout(PATIENCE_S)
        place = (SERVER, str(server.getsockname()[1]))
        crowd = network.start_inside(box, ["/usr/bin/python3", "-I", "-S", "-c", CROWD, *place, str(processes)])
        ends = [accepted.enter_context(server.accept()[0]) for _ in range(processes)]
        return _held(sensor, box, crowd, ends)


def _held(sensor: Running, box: Sandbox, crowd: Program, ends: list[socket.socket]) -> Held:
    until(lambda: len((box.path / "cgroup.procs").read_text().split()) == len(ends), "all of them", [crowd])
    sensor.settled(box)
    command = [sys.executable, "-m", "sensor.cli", "quarantine", "add", "--config", str(sensor.file)]
    began = time.monotonic()
    done = subprocess.run(
        [*command, "--reason", "a test", "-o", "json", box.name], capture_output=True, timeout=PATIENCE_S, check=False
    )
    seconds = time.monotonic() - began
    assert done.returncode == 0, (done.stdout[-500:], done.stderr[-1000:])
    record = json.loads(done.stdout)
    resets = sum(_is_reset(end) for end in ends)
    wrong = [*verify(record["evidence"]), *(f"{step['name']}: {step}" for step in record["steps"] if not _done(step))]
    steps = {step["name"]: step for step in record["steps"]}
    took = {name: (step["ended_ns"] - record["created_ns"]) / 1e9 for name, step in steps.items()}
    client = Client(str(sensor.home / "run" / "control.sock"))
    client.kill_quarantine(record["id"], "a test")
    sensor.until(lambda: client.quarantine(record["id"])["state"] == "killed", "it is killed")
    told = manifest(record["evidence"])
    evidence = f"{steps['evidence']['detail']}, complete {told['complete']}"
    return Held(seconds, took, steps["sockets"]["detail"], resets, evidence, tuple(wrong))


def _done(step: dict[str, str]) -> bool:
    return step["state"] == "done"


def _is_reset(end: socket.socket) -> bool:
    end.settimeout(PATIENCE_S)
    try:
        return end.recv(1) != end.recv(1)
    except ConnectionResetError:
        return True
