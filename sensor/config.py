"""The configuration: frozen, typed, validated. One YAML file; `load` names file, line and key of
whatever is wrong in it. packaging/pinfold.yaml is the commented example, and what the tests load.
"""

from __future__ import annotations

import mmap
import os
import re
import socket
from collections.abc import Iterator
from typing import Literal, cast

from msgspec import Struct, field
from msgspec.structs import replace

from sensor import configfile
from sensor.configassign import CLASS_NAME, Assignment, assign_problems, class_problem
from sensor.configcontrol import Control, control_problems
from sensor.configdetect import DetectSettings, detect_problems
from sensor.configdevices import GPU_CLASSES, DeviceClassName, grant_problems
from sensor.configexamples import Example, example_problems
from sensor.configexecutables import DeniedExecutables, executable_problems
from sensor.configfile import KeyPath, Problem, found
from sensor.configfiles import Files, file_problems
from sensor.confignetwork import DeniedProtocol, Dns, Egress, Flows, dns_problems, egress_problems, flow_problems
from sensor.configquarantine import Quarantine, quarantine_problems
from sensor.configrespond import Action, Responses, response_problems
from sensor.errors import HostError

# Some of it is defined elsewhere, and asked for here.
__all__ = [
    "GPU_CLASSES", "PREFIX_BYTES", "SUFFIX_BYTES", "Action", "Config", "DeviceClassName", "Limits", "Log", "Metrics",
    "Paths", "Responses", "Ring", "Rules", "SandboxClass", "SandboxPattern", "complete", "load", "problems",
    "refuse_fixed", "rule_paths",
]  # fmt: skip


class SandboxClass(Struct, frozen=True, forbid_unknown_fields=True):
    mode: Literal["monitor", "enforce"] = "monitor"
    granted_devices: tuple[str, ...] = ("fuse", "other")  # as `configdevices.parse_grant` reads them
    when_unrecorded: Literal["refuse", "allow"] = "refuse"
    responses: Responses = Responses()
    egress: Egress = Egress()
    denied_protocols: tuple[DeniedProtocol, ...] = ()
    denied_executables: DeniedExecutables = DeniedExecutables()
    shells_on_sockets: Literal["allow", "deny"] = "allow"


class SandboxPattern(Struct, frozen=True, forbid_unknown_fields=True):
    """Cgroups that are sandboxes: a path below the cgroup2 mount, one `*` at most in a component."""

    path: str
    class_: str = field(name="class", default="default")


class Ring(Struct, frozen=True, forbid_unknown_fields=True):
    size_bytes: int = 8 * 1024 * 1024  # a power of two
    sandbox_budget_bytes: int = 0  # outstanding bytes one sandbox may hold; 0: a quarter of the ring


class Limits(Struct, frozen=True, forbid_unknown_fields=True):
    sandboxes: int = 4096
    processes: int = 65536
    repeats: int = 16384
    watched_cgroups: int = 16384


class Rules(Struct, frozen=True, forbid_unknown_fields=True):
    paths: tuple[str, ...] = ()  # folders or files; empty: the rules that pinfold ships
    keep_going: bool = False  # load the rest when a rule is broken
    placeholders: dict[str, tuple[str, ...]] = {}  # what %name% stands for in values with |expand
    fold_seconds: int = 60  # repeats of a detection within it are counted, not told; 0: all are told
    most_per_minute: int = 600  # detections of one rule in one sandbox; further ones are counted; 0: no limit


class Metrics(Struct, frozen=True, forbid_unknown_fields=True):
    listen: str = "127.0.0.1:9817"  # loopback address and port, unix:PATH, or "" for neither


class Log(Struct, frozen=True, forbid_unknown_fields=True):
    file: str = "events.jsonl"  # below paths.log
    max_bytes: int = 64 * 1024 * 1024
    keep: int = 8  # rotated files
    unmatched: bool = True  # also granted opens and repeated connects that no rule can match; else they are counted


class Paths(Struct, frozen=True, forbid_unknown_fields=True):
    state: str = "/var/lib/pinfold"
    runtime: str = "/run/pinfold"
    log: str = "/var/log/pinfold"
    cache: str = "/var/cache/pinfold"
    bpffs: str = "/sys/fs/bpf"


class Config(Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file. `instance` names the pins' folder and the cgroup that `sandbox run` uses."""

    instance: str = "pinfold"
    cpus: tuple[int, ...] = ()  # that the sensor's own processes run on; empty: all
    sandboxes: tuple[SandboxPattern, ...] = ()
    classes: dict[str, SandboxClass] = field(default_factory=dict)  # "default" is added where absent
    assign: tuple[Assignment, ...] = ()  # the first that fits goes before the pattern's class
    examples: tuple[Example, ...] = ()  # nothing but `policy test` reads them
    paths: Paths = Paths()
    ring: Ring = Ring()
    limits: Limits = Limits()
    rules: Rules = Rules()
    dns: Dns = Dns()
    flows: Flows = Flows()
    detect: DetectSettings = DetectSettings()
    files: Files = Files()
    metrics: Metrics = Metrics()
    syscalls: Literal["decisions", "full"] = "decisions"  # full: at their gate too, which slows those of the whole host
    log: Log = Log()
    control: Control = Control()
    quarantine: Quarantine = Quarantine()


PREFIX_BYTES, SUFFIX_BYTES = 64, 32  # what the matcher in the kernel compares of a cgroup's name
_RING_BYTES = (64 * 1024, 256 * 1024 * 1024)
_BUDGET_BYTES_LEAST = 16 * 1024  # below it, one exec with long arguments and paths would not fit
_LIMITS = {"sandboxes": 65536, "processes": 4194304, "repeats": 1048576, "watched_cgroups": 1048576}
_UNIX_PATH_BYTES = 107  # sun_path, less its NUL


def load(path: str) -> Config:
    """The settings in the file, complete: with a class `default`, and a pattern for the cgroups of
    `pinfold sandbox run` where the file has none. Raises ConfigError, one line a problem."""
    return complete(configfile.read(path, Config, problems))


def complete(config: Config) -> Config:
    """What `load` adds to what is written; `complete(Config())` is the configuration without a file."""
    own = f"{config.instance}/*"
    patterns = config.sandboxes
    if all(pattern.path != own for pattern in patterns):
        patterns = (*patterns, SandboxPattern(own))
    return replace(config, classes={"default": SandboxClass()} | config.classes, sandboxes=patterns)


def rule_paths(config: Config) -> tuple[str, ...]:
    """Where the rules are: as configured, else those that come with pinfold."""
    shipped = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "rules")
    return config.rules.paths or (shipped,)


def refuse_fixed(now: Config, wanted: Config) -> None:
    """Raises HostError for a change that a reload cannot make: sizes of maps, names of pins, places."""
    for name in ("instance", "cpus", "paths", "ring", "limits", "metrics", "log", "dns", "detect", "syscalls"):
        if getattr(now, name) != getattr(wanted, name):
            raise HostError(f"{name}: a change needs a restart of the sensor")
    if now.control.group != wanted.control.group:
        raise HostError("control.group: a change needs a restart of the sensor")
    if now.files.enabled != wanted.files.enabled:
        raise HostError("files.enabled: a change needs a restart of the sensor")
    if now.flows.table != wanted.flows.table:
        raise HostError("flows.table: a change needs a restart of the sensor")


def problems(config: Config) -> Iterator[Problem]:
    """What types cannot say. The paths are those of the file's keys."""
    if not re.fullmatch(r"[a-z0-9-]{1,32}", config.instance):
        yield Problem(("instance",), "1 to 32 of a-z, 0-9 and -", found(config.instance))
    if any(cpu < 0 for cpu in config.cpus):
        yield Problem(("cpus",), "numbers of CPUs, from 0 on", found(list(config.cpus)))
    yield from _class_problems(config)
    for index, pattern in enumerate(config.sandboxes):
        yield from _pattern_problems(config, index, pattern)
    yield from assign_problems(("assign",), config.assign, config.classes)
    yield from example_problems(("examples",), config.examples, config.classes)
    yield from _size_problems(config)
    yield from _path_problems(config)
    yield from _rule_problems(config)
    yield from dns_problems(config.dns)
    yield from flow_problems(config.flows)
    yield from detect_problems(config.detect)
    yield from file_problems(config.files)
    yield from control_problems(config.control)
    yield from quarantine_problems(config.quarantine)
    if (expected := _listen_problem(config.metrics.listen)) is not None:
        yield Problem(("metrics", "listen"), expected, found(config.metrics.listen))


def _class_problems(config: Config) -> Iterator[Problem]:
    for name, settings in config.classes.items():
        at: KeyPath = ("classes", name)
        if not CLASS_NAME.fullmatch(name):
            yield Problem(at, "a name of 1 to 32 letters, digits, _ and -", found(name))
        yield from grant_problems((*at, "granted_devices"), settings.granted_devices)
        yield from egress_problems((*at, "egress"), settings.egress)
        yield from executable_problems((*at, "denied_executables"), settings.denied_executables)
        yield from response_problems((*at, "responses"), settings.responses)
        yield from _contradictions(at, settings)


def _contradictions(at: KeyPath, settings: SandboxClass) -> Iterator[Problem]:
    denied = {*settings.denied_executables.paths}
    for index, exception in enumerate(settings.responses.exceptions):
        if exception.executable in denied or os.path.basename(exception.executable) in denied:
            where = (*at, "responses", "exceptions", index, "executable")
            said = f"{found(exception.executable)}, which denied_executables does not let run"
            yield Problem(where, "a program that may run in this class", said)


def _pattern_problems(config: Config, index: int, pattern: SandboxPattern) -> Iterator[Problem]:
    at: KeyPath = ("sandboxes", index)
    if (unknown := class_problem(pattern.class_, config.classes)) is not None:
        yield Problem((*at, "class"), *unknown)
    if any(earlier.path == pattern.path for earlier in config.sandboxes[:index]):
        yield Problem((*at, "path"), "each path once", found(pattern.path))
    if (expected := _pattern_problem(pattern.path)) is not None:
        yield Problem((*at, "path"), expected, found(pattern.path))


def _pattern_problem(path: str) -> str | None:
    """What was expected instead, or None. Whatever could never match is refused: a pattern that
    silently matches nothing leaves a sandbox unwatched."""
    if path.strip("./") == "":
        return "a path below the cgroup2 mount (the mount itself is never a sandbox)"
    if path.startswith("/"):
        return "a path relative to the cgroup2 mount, without a leading /"
    for component in path.split("/"):
        if (expected := _component_problem(component)) is not None:
            return expected
    return None


def _component_problem(name: str) -> str | None:
    prefix, _, suffix = name.partition("*")
    if name in ("", ".", ".."):
        return "no empty component, no . and no .."
    if not name.isprintable() or any(character in name for character in "?[]{}"):
        return "names in which * is the only wildcard"
    if "*" in suffix:
        return "one * at most in a component"
    if len(prefix.encode()) > PREFIX_BYTES or len(suffix.encode()) > SUFFIX_BYTES:
        return f"at most {PREFIX_BYTES} bytes before a * and {SUFFIX_BYTES} after it, in each component"
    return None


def _size_problems(config: Config) -> Iterator[Problem]:
    size, budget = config.ring.size_bytes, config.ring.sandbox_budget_bytes
    least, most = _RING_BYTES
    # Conditions of BPF_MAP_TYPE_RINGBUF: a power of two, and whole pages.
    if not least <= size <= most or size & (size - 1) or size % mmap.PAGESIZE:
        yield Problem(
            ("ring", "size_bytes"),
            f"a power of two from {least} to {most}, and whole pages of {mmap.PAGESIZE}",
            found(size),
        )
    elif budget and not _BUDGET_BYTES_LEAST <= budget <= size:
        expected = f"0, or {_BUDGET_BYTES_LEAST} to the ring's {size}"
        yield Problem(("ring", "sandbox_budget_bytes"), expected, found(budget))
    for name, most in _LIMITS.items():
        if not 1 <= (value := cast(int, getattr(config.limits, name))) <= most:
            yield Problem(("limits", name), f"1 to {most}", found(value))
    if not 4096 <= config.log.max_bytes <= 1 << 40:
        yield Problem(("log", "max_bytes"), f"4096 to {1 << 40}", found(config.log.max_bytes))
    # At least one rotated file: the last event that was written may stand in it after a rotation.
    if not 1 <= config.log.keep <= 1000:
        yield Problem(("log", "keep"), "1 to 1000", found(config.log.keep))


def _rule_problems(config: Config) -> Iterator[Problem]:
    for name, most in (("fold_seconds", 86400), ("most_per_minute", 1_000_000)):
        if not 0 <= (value := cast(int, getattr(config.rules, name))) <= most:
            yield Problem(("rules", name), f"0 to {most}", found(value))


def _path_problems(config: Config) -> Iterator[Problem]:
    if "/" in config.log.file or config.log.file in ("", ".", "..") or not config.log.file.isprintable():
        yield Problem(("log", "file"), "a file's name, without /", found(config.log.file))
    for name in config.paths.__struct_fields__:
        if not _is_absolute(path := cast(str, getattr(config.paths, name))):
            yield Problem(("paths", name), "an absolute path without ..", found(path))
    for index, path in enumerate(config.rules.paths):
        if not _is_absolute(path):
            yield Problem(("rules", "paths", index), "an absolute path without ..", found(path))


def _is_absolute(path: str) -> bool:
    return path.startswith("/") and ".." not in path.split("/") and path.isprintable()


def _listen_problem(listen: str) -> str | None:
    """Loopback only: on another address, what is known of the sandboxes would be told to all."""
    if not listen:
        return None
    if listen.startswith("unix:"):
        path = listen.removeprefix("unix:")
        fits = _is_absolute(path) and len(path.encode()) <= _UNIX_PATH_BYTES
        return None if fits else f"unix: and an absolute path of at most {_UNIX_PATH_BYTES} bytes"
    host, _, port = listen.rpartition(":")
    if not re.fullmatch(r"[0-9]{1,5}", port) or not 1 <= int(port) <= 65535:
        return "a loopback address and a port, unix:PATH, or nothing"
    return None if _is_loopback(host) else "a loopback address (127.0.0.1, [::1] or localhost) before the port"


def _is_loopback(host: str) -> bool:
    if host in ("localhost", "[::1]"):
        return True
    try:
        return socket.inet_pton(socket.AF_INET, host)[0] == 127
    except (OSError, ValueError):
        return False
