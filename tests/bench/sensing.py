"""A sensor of the bench's own: configured, started until READY, asked for metrics and log, stopped, unpinned."""

from __future__ import annotations

import http.client
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.bench.harness import BenchError, one_line
from tests.bench.workspace import CHECKOUT, Workspace

READY_WITHIN_S = 60.0
STOP_WITHIN_S = 20.0
DAEMON = ("-m", "sensor.daemon")


class Sensor:
    """One configured sensor. Its pins stay when it stops, as they do in real life: `remove_pins` ends them."""

    def __init__(self, space: Workspace, overrides: Mapping[str, Any] | None = None) -> None:
        self.space = space
        self.folder = space.folder / f"sensor-{secrets.token_hex(3)}"
        self.folder.mkdir(mode=0o700)
        self.metrics_socket = self.folder / "metrics.sock"
        self.log = self.folder / "log" / "events.jsonl"
        self.config = self.folder / "pinfold.yaml"
        self.config.write_text(yaml.safe_dump({**self._settings(), **(overrides or {})}))
        self._process: subprocess.Popen[bytes] | None = None

    def _settings(self) -> dict[str, Any]:
        folders = {name: str(self.folder / name) for name in ("state", "runtime", "log", "cache")}
        for folder in folders.values():
            Path(folder).mkdir(mode=0o700)
        return {
            "instance": self.space.instance,
            "sandboxes": [{"path": f"{self.space.shared.name}/box-*"}],
            "paths": folders,
            "metrics": {"listen": f"unix:{self.metrics_socket}"},
            # Never rotated away before the bench has read it.
            "log": {"file": self.log.name, "max_bytes": 1 << 30, "keep": 4},
        }

    @property
    def tgid(self) -> int:
        if self._process is None:
            raise BenchError("the sensor does not run")
        return self._process.pid

    def start(self) -> float:
        """Seconds from before its fork to READY=1."""
        address = str(self.folder / f"notify-{secrets.token_hex(3)}")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready, open(self.folder / "stderr", "ab") as errors:
            ready.bind(address)
            ready.settimeout(0.05)
            began = time.monotonic()
            self._process = subprocess.Popen(
                [sys.executable, *DAEMON, "--config", str(self.config)],
                cwd=CHECKOUT,
                env={**os.environ, "NOTIFY_SOCKET": address},
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
            )
            try:
                self._await_ready(ready, began)
            except BaseException:
                self.stop(quietly=True)
                raise
            return time.monotonic() - began

    def _await_ready(self, ready: socket.socket, began: float) -> None:
        assert self._process is not None
        while time.monotonic() - began < READY_WITHIN_S:
            try:
                if b"READY=1" in ready.recv(4096).split(b"\n"):
                    return
            except TimeoutError:
                if self._process.poll() is not None:
                    raise BenchError(f"the sensor did not start: {self.said()}") from None
        raise BenchError(f"the sensor was not READY within {READY_WITHIN_S:.0f} s: {self.said()}")

    def stop(self, *, quietly: bool = False) -> None:
        """SIGTERM, and SIGKILL where that does not help; the latter is an error unless `quietly`."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            if not quietly:
                raise BenchError(f"the sensor did not stop within {STOP_WITHIN_S:.0f} s of SIGTERM") from None

    def remove_pins(self) -> None:
        command = [sys.executable, "-m", "sensor.bpf.objects", "remove", "--instance", self.space.instance]
        result = subprocess.run(command, cwd=CHECKOUT, capture_output=True, check=False, timeout=60)
        if result.returncode:
            raise BenchError(f"pins were not removed: {one_line(result.stderr.decode(errors='replace')[-300:])}")

    def detach(self) -> None:
        """Of a stopped sensor: its programs stay pinned, and no hook runs them. The next start attaches them."""
        if self._process is not None:
            raise BenchError("a running sensor attaches what was detached")
        for pin in Path("/sys/fs/bpf", self.space.instance).glob("gen-*/link-*"):
            pin.unlink()

    def forget_caches(self) -> None:
        for name in ("cache", "state"):
            shutil.rmtree(self.folder / name)
            (self.folder / name).mkdir(mode=0o700)

    def said(self) -> str:
        """The last line on its stderr."""
        lines = (self.folder / "stderr").read_bytes().decode(errors="replace").strip().splitlines()
        return one_line(lines[-1]) if lines else "it said nothing"

    def metric(self, name: str, **labels: str) -> float:
        """Sum of the samples called `name` that have these labels; 0 where there are none."""
        return sum(value for found, value in self.samples(name) if labels.items() <= found.items())

    def samples(self, name: str) -> list[tuple[dict[str, str], float]]:
        """(labels, value) of every sample called `name`."""
        return [
            (sample.labels, sample.value)
            for family in text_string_to_metric_families(self.scrape())
            for sample in family.samples
            if sample.name == name
        ]

    def scrape(self) -> str:
        connection = http.client.HTTPConnection("localhost", timeout=10)
        connection.sock = socket.socket(socket.AF_UNIX)
        try:
            connection.sock.settimeout(10)
            connection.sock.connect(str(self.metrics_socket))
            connection.request("GET", "/metrics")
            return connection.getresponse().read().decode()
        except OSError as error:
            raise BenchError(f"no metrics: {error}") from error
        finally:
            connection.close()

    def settle(self, read: Callable[[], float], within_s: float = 120.0, still_s: float = 1.0) -> float:
        """Waits until `read` has given the same value for `still_s`; that value."""
        value, since, deadline = read(), time.monotonic(), time.monotonic() + within_s
        while time.monotonic() - since < still_s:
            if time.monotonic() > deadline:
                raise BenchError(f"the sensor is still busy after {within_s:.0f} s")
            time.sleep(0.1)
            latest = read()
            if latest != value:
                value, since = latest, time.monotonic()
        return value

    def log_size(self) -> float:
        return float(sum(file.stat().st_size for file in self.log.parent.glob(self.log.name + "*")))

    def log_lines(self) -> Iterator[bytes]:
        """Every line of the log, rotated files too, in no promised order of files."""
        for file in self.log.parent.glob(self.log.name + "*"):
            with file.open("rb") as lines:
                yield from lines


@contextmanager
def sensor(space: Workspace, overrides: Mapping[str, Any] | None = None) -> Iterator[Sensor]:
    """A sensor that runs; stopped and unpinned afterwards whatever happened."""
    made = Sensor(space, overrides)
    try:
        made.start()
        yield made
        made.stop()
    except BaseException:
        made.stop(quietly=True)
        with suppress(BenchError):  # the first failure is the one to tell
            made.remove_pins()
        raise
    else:
        made.remove_pins()
    finally:
        shutil.rmtree(made.folder, ignore_errors=True)
