"""What goes into an archive for a bug report. Nothing here changes anything, and whatever is text is redacted."""

from __future__ import annotations

import json
import os
import platform
import socket
import stat
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from sensor import __version__
from sensor.cli.bugarchive import Item, Missing
from sensor.cli.common import python
from sensor.errors import PinfoldError
from sensor.export.redact import redact, redact_text

if TYPE_CHECKING:
    from sensor.config import Config

_CHILD_SECONDS = 40
_FILE_BYTES = 1024 * 1024
_STATE_FILES = 200
_STATE_DEPTH = 4
_PINS = 2000
_LOG_BYTES = 8 * 1024 * 1024
_ARCHIVES = (".gz", ".tar", ".zst", ".core", ".bin", ".db")
_UNIT = "pinfold.service"
_ANSWERS = {
    "status": "/v1/status", "sandboxes": "/v1/sandboxes", "quarantines": "/v1/quarantines?all=1",
    "rules": "/v1/rules", "policy": "/v1/policy", "detections": "/v1/detections?limit=100", "silences": "/v1/silences",
    "top": "/v1/top",
}  # fmt: skip
_HOST = (
    "/proc/version", "/etc/os-release", "/proc/cmdline", "/proc/uptime", "/proc/loadavg", "/proc/meminfo",
    "/sys/kernel/security/lsm", "/proc/sys/kernel/unprivileged_bpf_disabled", "/proc/sys/net/core/bpf_jit_enable",
    "/proc/pressure/cpu", "/proc/cgroups",
)  # fmt: skip
_MOUNTS = ("cgroup", "cgroup2", "bpf", "tracefs", "debugfs", "securityfs")


def items(config: Config, file: str | None, lines: int) -> Iterator[Item]:
    """`file`: of the configuration, or None. `lines`: of the log and of the journal, the latest."""
    yield Item("01-version.json", "versions", "this command", _version)
    yield Item("02-host.txt", "kernel and distribution", "/proc, /sys, /etc/os-release", _host)
    yield Item("03-doctor.json", "what this kernel and host offer", "pinfold doctor", lambda: _own(file, "doctor"))
    yield Item("04-configuration.yaml", "the configuration, redacted", file or "none", lambda: _configuration(file))
    yield Item("05-settings.json", "the settings that follow of it", "this command", lambda: _settings(config))
    for number, (name, path) in enumerate(_ANSWERS.items(), 6):
        yield Item(f"{number:02}-{name}.json", f"the sensor's answer: {name}", path, _answer(config, path))
    yield Item("19-rule-files.json", "the rules on disk", "pinfold rules list", lambda: _own(file, "rules", "list"))
    log = os.path.join(config.paths.log, config.log.file)
    yield Item("20-metrics.txt", "metrics", "/metrics", lambda: _metrics(config))
    yield Item("21-log.jsonl", f"the log's last {lines} lines, redacted", log, lambda: _log(log, lines), tail=True)
    pins = os.path.join(config.paths.bpffs, config.instance)
    yield Item("22-pins.txt", "what is pinned", pins, lambda: _pins(pins))
    yield Item("23-objects.json", "sizes and counts of pinned maps and programs", pins, lambda: _objects(pins))
    yield Item("24-process.txt", "the sensor's process", "/proc", lambda: _process(config))
    yield Item(
        "25-stderr.txt", "the sensor's stderr, redacted", "where it is a file", lambda: _stderr(config), tail=True
    )
    status = ("systemctl", "status", "--no-pager", "--full", "--lines=0", _UNIT)
    yield Item("26-unit.txt", "the service's state", " ".join(status), lambda: _run(*status, statuses=(0, 1, 2, 3)))
    journal = ("journalctl", "--no-pager", "--output=short-iso", f"--lines={lines}", f"--unit={_UNIT}")
    yield Item("27-journal.txt", "the service's journal", " ".join(journal), lambda: _run(*journal), tail=True)
    yield Item("28-state.txt", "what is in the state folder", config.paths.state, lambda: _listing(config.paths.state))
    for number, path in enumerate(state_files(config.paths.state), 1):
        name = f"state-{number:03}{'.json' if path.endswith('.json') else '.txt'}"
        yield Item(name, "ledger and state, redacted", path, _state(path), tail=True)


def state_files(folder: str) -> list[str]:
    """Regular files below the state folder. What is kept of sandboxes as evidence stays where it is."""
    found: list[str] = []
    for parent, folders, names in os.walk(folder):
        depth = parent[len(folder) :].count("/")
        folders[:] = sorted(set(folders) - {"evidence"}) if depth < _STATE_DEPTH else []
        for name in sorted(names):
            path = os.path.join(parent, name)
            if not name.endswith(_ARCHIVES) and stat.S_ISREG(os.lstat(path).st_mode):
                found.append(path)
    return found[:_STATE_FILES]


def _version() -> bytes:
    uname = platform.uname()
    return _json({
        "pinfold": __version__, "python": sys.version, "kernel": uname.release, "build": uname.version,
        "machine": uname.machine, "cpus": os.cpu_count(), "euid": os.geteuid(),
        "libraries": _libraries(),
    })  # fmt: skip


def _libraries() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415

    found = {}
    for name in ("msgspec", "orjson", "google-re2", "pysigma", "aiohttp", "prometheus-client", "click", "rich"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "missing"
    return found


def _host() -> bytes:
    parts = []
    for path in _HOST:
        try:
            text = _read(path).decode("utf-8", "replace").strip()
        except OSError as why:
            text = f"({why.strerror})"
        parts.append(f"== {path}\n{redact_text(text)}\n")
    with open("/proc/self/mountinfo", encoding="utf-8", errors="backslashreplace") as lines:
        mounts = [line for line in lines if line.partition(" - ")[2].split(" ")[0] in _MOUNTS]
    return ("\n".join(parts) + "\n== mounts\n" + "".join(mounts)).encode("utf-8", "backslashreplace")


def _own(file: str | None, *arguments: str) -> bytes:
    """This very command, in a child: what hangs or crashes there leaves the archive whole."""
    start, environment = python()
    command = [*start, "-m", "sensor.cli", *arguments, "-o", "json", *(("--config", file) if file else ())]
    return _run(*command, statuses=(0, 1), environment=environment)


def _configuration(file: str | None) -> bytes:
    if file is None:
        raise Missing("there is no file: the defaults are in force")
    return _redacted(_read(file))


def _settings(config: Config) -> bytes:
    return _json(redact({"settings": msgspec.to_builtins(config)}))


def _answer(config: Config, path: str) -> Callable[[], bytes]:
    def ask() -> bytes:
        from sensor.control.client import Client  # noqa: PLC0415

        try:
            answer = Client.of(config).get(path)
        except PinfoldError as why:
            raise Missing(str(why)) from why
        return _json(redact({"answer": answer}))

    return ask


def _metrics(config: Config) -> bytes:
    from sensor.control.client import Client  # noqa: PLC0415

    try:
        return Client.of(config).metrics().encode()
    except PinfoldError as why:
        raise Missing(str(why)) from why


def _log(path: str, lines: int) -> bytes:
    from sensor.cli.choose import parsed  # noqa: PLC0415
    from sensor.cli.redaction import json_text  # noqa: PLC0415
    from sensor.export.reader import backwards, files  # noqa: PLC0415

    if not files(path):
        raise Missing(f"no log at {path}")
    found: list[bytes] = []
    size = 0
    for line in backwards(path):
        record = parsed(line)
        shown = json_text(record, line, False).encode() if record else _redacted(line[:4096])
        size += len(shown) + 1
        if len(found) >= lines or size > _LOG_BYTES:
            break
        found.append(shown + b"\n")
    return b"".join(reversed(found))


def _pins(folder: str) -> bytes:
    if not os.path.isdir(folder):
        raise Missing(f"{folder} is not there: nothing is pinned")
    return _listing(folder)


def _objects(folder: str) -> bytes:
    """By the kernel's own account (fdinfo): type, sizes, entries, memory; of programs, how often they ran."""
    from sensor.bpf import libbpf  # noqa: PLC0415

    found: dict[str, Any] = {}
    for path in sorted(Path(folder).rglob("*"))[:_PINS]:
        if not stat.S_ISREG(path.lstat().st_mode):
            continue
        try:
            fd = libbpf.get(path)
        except PinfoldError as why:
            found[str(path)] = {"missing": str(why)}
            continue
        try:
            lines = _read(f"/proc/self/fdinfo/{fd}").decode("utf-8", "replace").splitlines()
        finally:
            os.close(fd)
        found[str(path)] = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    if not found:
        raise Missing(f"nothing is pinned below {folder}")
    return _json(found)


def _core(config: Config) -> int:
    """The tgid of whoever listens on the control socket, by SO_PEERCRED: taken when it began to listen."""
    from sensor.control.listeners import CONTROL_SOCKET  # noqa: PLC0415

    with socket.socket(socket.AF_UNIX) as asking:
        asking.settimeout(2)
        try:
            asking.connect(os.path.join(config.paths.runtime, CONTROL_SOCKET))
        except OSError as why:
            raise Missing(f"the sensor does not run: {why.strerror or why}") from why
        (tgid,) = struct.unpack_from("i", asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    if tgid <= 0:
        raise Missing("the sensor's process is not known")
    return int(tgid)


def _process(config: Config) -> bytes:
    tgid = _core(config)
    parts = [f"== {tgid}"]
    for name in ("status", "limits", "cgroup", "schedstat", "io"):
        try:
            parts.append(f"== {name}\n{_read(f'/proc/{tgid}/{name}').decode('utf-8', 'replace')}")
        except OSError as why:
            parts.append(f"== {name}\n({why.strerror})")
    return "\n".join(parts).encode()


def _stderr(config: Config) -> bytes:
    path = f"/proc/{_core(config)}/fd/2"
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    with open(fd, "rb") as file:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise Missing(f"its stderr is no file but {os.readlink(path)}")
        file.seek(max(0, found.st_size - _FILE_BYTES))
        return _redacted(file.read(_FILE_BYTES))


def _state(path: str) -> Callable[[], bytes]:
    return lambda: _redacted(_read(path, tail=True, flags=os.O_NOFOLLOW))


def _listing(folder: str) -> bytes:
    if not os.path.isdir(folder):
        raise Missing(f"{folder} is not there")
    rows = []
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in (*folders, *sorted(names)):
            path = os.path.join(parent, name)
            found = os.lstat(path)
            mode = stat.filemode(found.st_mode)
            rows.append(f"{mode} {found.st_uid}:{found.st_gid} {found.st_size:>12} {int(found.st_mtime)} {path}\n")
        if len(rows) > _PINS:
            rows.append("[and more]\n")
            break
    return "".join(rows).encode("utf-8", "backslashreplace")


def _read(path: str, tail: bool = False, flags: int = 0) -> bytes:
    """:raises Missing: it is no file: a fifo would be waited for. :raises OSError:"""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY | flags)
    with open(fd, "rb") as file:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise Missing(f"{path}: no regular file")
        if tail:
            file.seek(max(0, found.st_size - _FILE_BYTES))
        return file.read(_FILE_BYTES)


def _run(*command: str, statuses: tuple[int, ...] = (0,), environment: dict[str, str] | None = None) -> bytes:
    try:
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=_CHILD_SECONDS, check=False
        )
    except FileNotFoundError as why:
        raise Missing(f"there is no {command[0]} here") from why
    except subprocess.TimeoutExpired as why:
        raise Missing(f"{command[0]} took longer than {_CHILD_SECONDS} s") from why
    said = done.stderr.decode("utf-8", "replace").strip().splitlines()
    if done.returncode not in statuses:
        raise Missing(f"{command[0]} ended with {done.returncode}: {redact_text((said or ['no message'])[-1][:300])}")
    return _redacted(done.stdout or done.stderr)


def _redacted(content: bytes) -> bytes:
    """By lines, so that JSON is told by its names."""
    return b"\n".join(map(_redacted_line, content.split(b"\n")))


def _redacted_line(line: bytes) -> bytes:
    if line.startswith(b"{"):
        try:
            return json.dumps(redact({"line": json.loads(line)})["line"], separators=(",", ":")).encode()
        except (ValueError, RecursionError):
            pass
    return redact_text(line.decode("utf-8", "backslashreplace")).encode("utf-8", "backslashreplace")


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1, default=str).encode()
