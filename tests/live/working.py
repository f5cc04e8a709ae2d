"""Sandboxes that do at a word what a sandbox does: bash, Python, in a nested cgroup, in a container made with runc."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sensor.respond import procfs
from tests.live.names import unique
from tests.live.peers.network import Network
from tests.live.peers.programs import find
from tests.live.running import WAIT_S, Running, remove_cgroup

ALL = ("connect", "device", "exec")
SECRET = "correct-horse-battery-staple"  # noqa: S105 - which must be seen nowhere
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "API_TOKEN": SECRET}
DEVICE = "/dev/fuse"

PYTHON = """
import errno, os, socket, subprocess, sys, threading, time
kept = [socket.create_server(("127.0.0.1", 0))]
counted = 0
def counts():
    global counted
    while True:
        counted += 1
        time.sleep(0.005)
threading.Thread(target=counts, daemon=True).start()
def act(word):
    if word == "connect":
        kept.append(socket.create_connection((sys.argv[1], int(sys.argv[2])), 20))
    elif word == "device":
        os.close(os.open("/dev/fuse", os.O_RDONLY))
    elif word == "send":
        kept[-1].send(b"x")
    elif word == "mine":
        kept[-1].send(b'{"id":1,"method":"mining.subscribe","params":["worker/1.0"]}\\n')
    elif word == "count":
        return counted
    else:
        words = ["/usr/bin/true"] if word == "exec" else ["/usr/bin/true", "x-%d-x" % 7]
        return subprocess.call(words) or "ok"
    return "ok"
print("ready", flush=True)
for line in sys.stdin:
    try:
        print(act(line.strip()), flush=True)
    except OSError as error:
        print(errno.errorcode[error.errno], flush=True)
"""
BASH = """
echo ready
while read -r word; do
  case $word in
    connect) exec 7<>"/dev/tcp/$1/$2" ;;
    device) (exec 8</dev/fuse) ;;
    count) counted=$((counted + 1)); echo $counted; continue ;;
    exec) /usr/bin/true ;;
    *) /usr/bin/true x-$((3 + 4))-x ;;
  esac 2>/dev/null
  status=$?
  [ $status -eq 0 ] && echo ok || echo "$status"
done
"""


class Worker:
    """`path` is its sandbox's cgroup, `cgroup` the one that it lives in."""

    def __init__(self, path: Path, process: subprocess.Popen[bytes], cgroup: Path | None = None) -> None:
        self.path, self.process = path, process
        self.cgroup = cgroup or path
        self._said = b""
        assert self._line() == "ready"
        self.id = path.stat().st_ino

    @property
    def name(self) -> str:
        return self.path.name

    def do(self, *words: str) -> list[str]:
        assert self.process.stdin is not None
        told = []
        for word in words:
            self.process.stdin.write(word.encode() + b"\n")
            self.process.stdin.flush()
            told.append(self._line())
        return told

    def _line(self) -> str:
        assert self.process.stdout is not None
        fd, until = self.process.stdout.fileno(), time.monotonic() + WAIT_S
        while b"\n" not in self._said:
            assert select.select([fd], [], [], max(0, until - time.monotonic()))[0], "it does not answer"
            part = os.read(fd, 4096)
            assert part, f"it ended with {self.process.poll()}"
            self._said += part
        line, _, self._said = self._said.partition(b"\n")
        return line.decode()

    @property
    def frozen(self) -> bool:
        return "frozen 1" in (self.path / "cgroup.events").read_text()

    def living(self) -> list[int]:
        """Who of it lives, in nested cgroups too; a zombie of ours does not."""
        if not self.path.exists():
            return []
        found = [int(line) for file in self.path.rglob("cgroup.procs") for line in file.read_text().split()]
        return [tgid for tgid in found if (stat := procfs.stat(tgid)) is not None and not stat.gone]

    def close(self) -> None:
        with contextlib.suppress(OSError):
            (self.path / "cgroup.freeze").write_text("0")
            (self.path / "cgroup.kill").write_text("1")
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


PIPES: Mapping[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "env": ENVIRONMENT}


@contextlib.contextmanager
def worker(
    sensor: Running, network: Network, server: tuple[str, int], kind: str = "python", name: str = ""
) -> Iterator[Worker]:
    to = (server[0], str(server[1]))
    argv: tuple[str, ...] = ("/usr/bin/bash", "-c", BASH, "bash", *to)
    if kind != "bash":
        argv = ("/usr/bin/python3", "-I", "-S", "-c", PYTHON, *to)
    if kind == "runc":
        with container(sensor, network, argv, name or f"runc-{unique()}") as made:
            yield made
        return
    with sensor.sandbox(name or f"{kind}-{unique()}") as box:
        process = network.inside.call(lambda: box.start(*argv, **PIPES))
        made = Worker(box.path, process)
        try:
            if kind == "nested":
                made.cgroup = box.path / "one" / "two"
                made.cgroup.mkdir(parents=True)
                (made.cgroup / "cgroup.procs").write_text(str(process.pid))
            yield made
        finally:
            made.close()


@contextlib.contextmanager
def container(sensor: Running, network: Network, argv: tuple[str, ...], name: str) -> Iterator[Worker]:
    """Its own root, processes, mounts and names; the network of the others. runc makes its cgroup in each hierarchy
    that it finds, the unified one of a hybrid host among them."""
    runc = find("runc")
    with tempfile.TemporaryDirectory(prefix=f"pinfold-test-{unique()}-") as folder:
        bundle = Path(folder)
        _bundle(bundle, argv, f"/{sensor.instance}/{name}", network.inside.path)
        command = [runc, "--root", f"{folder}/state"]
        process = subprocess.Popen([*command, "run", "--bundle", folder, name], **PIPES)
        path = sensor.parent / name
        try:
            made = Worker(path, process)
            yield made
        finally:
            with contextlib.suppress(OSError):
                (path / "cgroup.freeze").write_text("0")
            subprocess.run([*command, "delete", "--force", name], stderr=subprocess.DEVNULL, check=False)
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
            remove_cgroup(path)
            _remove_others(sensor.instance, name)


def _bundle(folder: Path, argv: tuple[str, ...], cgroup: str, network: Path) -> None:
    root = folder / "rootfs"
    for each in ("usr", "proc", "dev"):
        (root / each).mkdir(parents=True)
    for each in ("bin", "sbin", "lib", "lib64"):
        (root / each).symlink_to(f"usr/{each}")
    number = os.stat(DEVICE).st_rdev
    device = {"type": "c", "major": os.major(number), "minor": os.minor(number)}
    spaces = [{"type": each} for each in ("pid", "mount", "ipc", "uts")]
    config = {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": argv,
            "env": [f"{key}={value}" for key, value in ENVIRONMENT.items()],
            "cwd": "/",
        },
        "root": {"path": "rootfs", "readonly": True},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
            {"destination": "/usr", "type": "bind", "source": "/usr", "options": ["rbind", "ro"]},
        ],
        "linux": {
            "cgroupsPath": cgroup,
            "namespaces": [*spaces, {"type": "network", "path": str(network)}],
            "devices": [{"path": DEVICE, "fileMode": 0o666, **device}],
            "resources": {
                "devices": [{"allow": False, "access": "rwm"}, {"allow": True, "access": "rwm", **device}],
            },
        },
    }
    (folder / "config.json").write_text(json.dumps(config))


def _remove_others(instance: str, name: str) -> None:
    """What runc made in the hierarchies of cgroup v1, and its `delete` leaves: the parent."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        place, kind = line.split()[1:3]
        if kind == "cgroup" and re.fullmatch(r"/[\w/=,-]+", place):
            for folder in (Path(place, instance, name), Path(place, instance)):
                with contextlib.suppress(OSError):
                    folder.rmdir()
