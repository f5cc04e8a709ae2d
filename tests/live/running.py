"""A sensor of the test's own: its configuration, its instance, its folders, its cgroups; all removed."""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from sensor.bpf import objects
from sensor.enrich.sandboxes.cgroupfs import find_cgroup2_mount
from tests.live.names import unique

WAIT_S = 20.0
Line = dict[str, Any]

CONFIG = """
instance: {instance}
paths: {{state: {home}/state, runtime: {home}/run, log: {home}/log, cache: {cache}}}
metrics: {{listen: "127.0.0.1:{port}"}}
sandboxes:
  - {{path: "{instance}/refuse-*", class: refuse}}
  - {{path: "{instance}/kill-*", class: kill}}
  - {{path: "{instance}/lenient-*", class: lenient}}
classes:
  refuse: {{mode: enforce, granted_devices: []}}
  kill:
    mode: enforce
    responses: {{medium: kill, high: kill, critical: kill}}
  lenient: {{mode: enforce, when_unrecorded: allow}}
"""


# For tests that want a rule of their own to fire: `rules: {{paths: ['{home}/rules']}}`.
NUMBERED = """
title: A numbered exec
id: 7c1c9d0e-2f6b-4a55-9d5e-0c8f5f1d2a3b
status: test
level: high
logsource: {product: linux, category: process_creation}
detection:
  numbered: {CommandLine|contains: '-7-'}
  condition: numbered
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Sandbox:
    """A cgroup in which to run things. `id` is its cgroup id."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.path.mkdir()
        self.id = path.stat().st_ino

    @property
    def name(self) -> str:
        return self.path.name

    def start(self, *argv: str | bytes, uid: int = 0, **options: Any) -> subprocess.Popen[bytes]:
        """The first program of its process is `argv`: the entering itself is a fork, and no exec."""
        procs = str(self.path / "cgroup.procs")

        def enter() -> None:
            with open(procs, "w") as file:
                file.write("0")
            if uid:
                os.setgroups([])
                os.setgid(uid)
                os.setuid(uid)

        return subprocess.Popen(argv, preexec_fn=enter, **options)  # noqa: PLW1509 - one thread in the child

    def run(self, *argv: str | bytes, timeout: float = 60, **options: Any) -> subprocess.CompletedProcess[bytes]:
        process = self.start(*argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)
        try:
            out, err = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            process.wait()
            raise
        return subprocess.CompletedProcess(argv, process.returncode, out, err)

    def python(self, code: str, *arguments: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
        """With the system's own interpreter, isolated."""
        return self.run("/usr/bin/python3", "-I", "-S", "-c", code, *arguments, **options)

    def remove(self) -> None:
        with contextlib.suppress(OSError):
            (self.path / "cgroup.kill").write_text("1")
        remove_cgroup(self.path)


def remove_cgroup(path: Path) -> None:
    """With its nested ones. What was killed may take a moment to be gone."""
    if not path.exists():
        return
    for nested in sorted((p for p in path.rglob("*") if p.is_dir()), reverse=True):
        _rmdir(nested)
    _rmdir(path)


def _rmdir(path: Path) -> None:
    until = time.monotonic() + WAIT_S
    while path.exists():
        try:
            path.rmdir()
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.005)


@functools.cache
def _shared_cache() -> str:
    """One for all sensors of a run: the probes are compiled once for each size of ring and maps."""
    folder = tempfile.mkdtemp(prefix="pinfold-test-cache-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


class Running:
    """`with Running() as sensor:`; `options` is YAML appended to the configuration above, or `config` in
    its place, both formatted with instance, home, cache and port."""

    def __init__(self, options: str = "", *, config: str = CONFIG, cache: str = "", **environment: str) -> None:
        self.instance = f"pinfold-test-{unique()}"
        self.home = Path(tempfile.mkdtemp(prefix=f"pinfold-test-{unique()}-"))
        self.port = free_port()
        self.file = self.home / "pinfold.yaml"
        self.log = self.home / "log" / "events.jsonl"
        self.mount = find_cgroup2_mount()
        self.parent = Path(self.mount) / self.instance
        self.process: subprocess.Popen[bytes] | None = None
        self._environment = environment
        values = {
            "instance": self.instance,
            "home": self.home,
            "cache": cache or _shared_cache(),
            "port": self.port,
        }
        self.file.write_text((config + options).format(**values))
        rules = self.home / "rules"
        rules.mkdir()
        (rules / "numbered.yml").write_text(NUMBERED)
        self._sandboxes: list[Sandbox] = []

    def __enter__(self) -> Running:
        try:
            self.start()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    # The daemon.

    def launch(self, module: str = "sensor.daemon", *arguments: str) -> subprocess.Popen[bytes]:
        environment = {**os.environ, **self._environment}
        command = [sys.executable, "-m", module, *(arguments or ("--config", str(self.file)))]
        with open(self.home / "stderr", "ab") as said:
            self.process = subprocess.Popen(command, env=environment, stderr=said, stdin=subprocess.DEVNULL)
        return self.process

    def start(self) -> None:
        """Until READY."""
        notify = self.home / "notify"
        notify.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
            ready.bind(str(notify))
            ready.settimeout(0.2)
            self._environment["NOTIFY_SOCKET"] = str(notify)
            process = self.launch()
            until = time.monotonic() + 60
            while True:
                with contextlib.suppress(TimeoutError):
                    if b"READY=1" in ready.recv(4096):
                        return
                assert process.poll() is None, f"the sensor ended with {process.returncode}: {self.said()}"
                assert time.monotonic() < until, f"the sensor is not ready: {self.said()}"

    def said(self) -> str:
        path = self.home / "stderr"
        return path.read_text(errors="replace")[-4000:] if path.exists() else ""

    def stop(self, number: int = signal.SIGTERM) -> int:
        if self.process is None:
            return 0
        process, self.process = self.process, None
        process.send_signal(number)
        return process.wait(timeout=30)

    def remove(self) -> None:
        for sandbox in self._sandboxes:
            sandbox.remove()
        if self.process is not None and self.process.poll() is None:
            self.stop()
        objects.remove("/sys/fs/bpf", self.instance)
        remove_cgroup(self.parent)
        shutil.rmtree(self.home, ignore_errors=True)

    # Its sandboxes.

    @contextlib.contextmanager
    def sandbox(self, name: str = "") -> Iterator[Sandbox]:
        box = Sandbox(self.parent / (name or f"plain-{secrets.token_hex(4)}"))
        self._sandboxes.append(box)
        try:
            yield box
        finally:
            box.remove()
            self._sandboxes.remove(box)

    # What it wrote.

    def lines(self) -> list[Line]:
        """Every line, the rotated files' first."""
        numbered = sorted(self.log.parent.glob("events.jsonl.*"), key=lambda p: -int(p.suffix[1:]))
        found = []
        for path in [*numbered, self.log]:
            if path.exists():
                found += [
                    json.loads(line) for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")
                ]
        return found

    def of(self, sandbox: Sandbox, **wanted: object) -> list[Line]:
        """Lines of one sandbox with these members; with a `category`, events unless another kind is named."""
        if "category" in wanted:
            wanted.setdefault("kind", "event")
        return [line for line in self.lines() if line.get("SandboxId") == sandbox.id and _has(line, wanted)]

    def wait(self, sandbox: Sandbox, *, count: int = 1, **wanted: object) -> list[Line]:
        """At least `count` such lines. A callable as a member's value judges it."""
        lines: list[Line] = self.until(
            lambda: _enough(self.of(sandbox, **wanted), count), f"{count} lines with {wanted}"
        )
        return lines

    def until(self, found: Callable[[], Any], what: str) -> Any:
        until = time.monotonic() + WAIT_S
        while True:
            result = found()
            if result:
                return result
            assert self.process is None or self.process.poll() is None, f"the sensor ended: {self.said()}"
            assert time.monotonic() < until, f"not seen within {WAIT_S:g} s: {what}; sensor said: {self.said()}"
            time.sleep(0.02)

    def settled(self, sandbox: Sandbox) -> None:
        """Everything done in the sandbox so far has been logged: records come in order, and a marker is last.
        Where the sandbox's budget is used up at first, the marker is lost like anything else: another follows."""

        def marked() -> bool:
            marker = f"marker-{secrets.token_hex(8)}"
            sandbox.run("/bin/true", marker)
            until = time.monotonic() + 2
            while time.monotonic() < until:
                if self.of(sandbox, category="process_creation", CommandLine=f"/bin/true {marker}"):
                    return True
                time.sleep(0.02)
            return False

        self.until(marked, "the marker")

    def metrics(self) -> dict[str, float]:
        """`name{labels}` to value."""
        from urllib.request import ProxyHandler, build_opener  # noqa: PLC0415

        opener = build_opener(ProxyHandler({}))
        with opener.open(f"http://127.0.0.1:{self.port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        pairs = (line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))
        return {name: float(value) for name, value in pairs}

    def lost(self) -> dict[str, float]:
        """What was lost anywhere, without the counts that lose nothing."""
        return {
            name: value
            for name, value in self.metrics().items()
            if name.startswith("pinfold_events_lost_total")
            and value
            and "watermark" not in name
            and "repeats" not in name
        }


def _has(line: Line, wanted: dict[str, object]) -> bool:
    for name, value in wanted.items():
        found = line.get(name)
        if not (value(found) if callable(value) else found == value):
            return False
    return True


def _enough(lines: Sequence[Line], count: int) -> Sequence[Line]:
    return lines if len(lines) >= count else ()
