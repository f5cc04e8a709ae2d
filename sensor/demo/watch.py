"""A sensor of the demo's own: another instance beside whatever else runs on this host."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.request import ProxyHandler, build_opener

from sensor.demo import cgroups
from sensor.demo.child import Child
from sensor.demo.journal import Journal
from sensor.demo.undo import Undo
from sensor.enrich.sandboxes.cgroupfs import find_cgroup2_mount

READY_SECONDS = 60.0
METRICS_BYTES = 4 * 1024 * 1024
AGENT, PATIENT, WORK = "agent-1", "agent-2", "work-1"

CONFIG = """\
instance: {instance}
sandboxes:
- path: {instance}/agent-1
  class: agents
- path: {instance}/agent-2
  class: patient
- path: {instance}/work-*
  class: work
classes:
  agents:
    mode: enforce
    granted_devices: []
    responses: {{medium: kill, high: kill, critical: kill}}
  patient:
    mode: enforce
    denied_protocols: [stratum]
    responses: {{critical: kill}}
  work:
    mode: monitor
paths:
  state: {folder}/state
  runtime: {folder}/run
  log: {folder}/log
  cache: {folder}/cache
metrics:
  listen: 127.0.0.1:{port}
"""


class Sensor:
    """The daemon in `folder`, READY when this returns. `journal` is its log, `metrics` what it exports.

    :param prefix: a command that becomes the daemon's, such as one that takes privileges away.
    """

    def __init__(self, instance: str, folder: Path, undo: Undo, prefix: Sequence[str] = ()) -> None:
        self._undo = undo
        self.cgroup = Path(find_cgroup2_mount()) / instance
        self.port = free_port()
        self.config = folder / "pinfold.yaml"
        self.config.touch(0o600)  # whatever the umask: a file that others may write is refused
        self.config.write_text(CONFIG.format(instance=instance, folder=folder, port=self.port))
        undo.add(f"pins of {instance}", lambda: _remove_pins(instance))
        undo.add(f"cgroup {self.cgroup}", lambda: cgroups.remove(self.cgroup))
        self.cgroup.mkdir()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as notify:
            address = folder / "notify"
            notify.bind(str(address))
            self.child = Child(
                "sensor",
                [*prefix, sys.executable, "-m", "sensor.daemon", "--config", str(self.config)],
                folder / "sensor.out",
                undo,
                environment={"NOTIFY_SOCKET": str(address)},
            )
            if not undo.until(lambda: self._ready(notify), READY_SECONDS):
                raise OSError(f"the sensor is not ready after {READY_SECONDS:.0f} s: {self.child.last_line()}")
        self.journal = Journal(folder / "log" / "events.jsonl")
        undo.add("log reader", self.journal.close)

    def _ready(self, notify: socket.socket) -> bool:
        if self.child.status is not None:
            raise OSError(f"the sensor did not start: {self.child.last_line()}")
        try:
            return b"READY=1" in notify.recv(4096).split(b"\n")
        except BlockingIOError:
            return False

    def sandbox(self, name: str, command: list[str]) -> list[str]:
        """A command line that runs `command` in the sandbox `name`, as an operator would."""
        return [
            sys.executable,
            "-m",
            "sensor.cli",
            "sandbox",
            "run",
            "--config",
            str(self.config),
            name,
            "--",
            *command,
        ]

    def metrics(self) -> str:
        """What Prometheus would scrape. Loopback only: a proxy of the environment is not asked."""
        with build_opener(ProxyHandler({})).open(f"http://127.0.0.1:{self.port}/metrics", timeout=10) as answer:
            return str(answer.read(METRICS_BYTES).decode())

    def lost(self) -> int:
        """Events lost since it started, over all stages and reasons."""
        lines = (line.rpartition(" ") for line in self.metrics().splitlines())
        return sum(int(float(value)) for name, _, value in lines if name.startswith("pinfold_events_lost_total"))


def free_port() -> int:
    """A loopback port that nobody listens on now; the kernel hands out another one next time."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _remove_pins(instance: str) -> None:
    command = [sys.executable, "-m", "sensor.bpf.objects", "remove", "--instance", instance]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env={**os.environ})
    if done.returncode:
        raise OSError((done.stderr.strip().splitlines() or ["no message"])[-1])
