"""The configuration: frozen, typed, validated. One YAML file; `load` names file, line and key of
whatever is wrong in it. packaging/pinfold.yaml is the commented example, and what the tests load.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct, field

DeviceClassName = Literal[
    "nvidia", "amd", "drm", "accel", "kvm", "tun", "fuse", "memory", "block", "vfio", "infiniband", "other"
]
Action = Literal["log", "kill", "kill-sandbox"]
GPU_CLASSES: frozenset[str] = frozenset({"nvidia", "amd", "drm", "accel"})


class Responses(Struct, frozen=True, forbid_unknown_fields=True):
    """What follows a detection of each level. In monitor mode it is only logged."""

    informational: Action = "log"
    low: Action = "log"
    medium: Action = "log"
    high: Action = "log"
    critical: Action = "log"


class SandboxClass(Struct, frozen=True, forbid_unknown_fields=True):
    mode: Literal["monitor", "enforce"] = "monitor"
    granted_devices: tuple[DeviceClassName, ...] = ("fuse", "other")
    when_unrecorded: Literal["refuse", "allow"] = "refuse"
    responses: Responses = Responses()


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


class Metrics(Struct, frozen=True, forbid_unknown_fields=True):
    listen: str = "127.0.0.1:9817"  # loopback address and port, unix:PATH, or "" for neither


class Log(Struct, frozen=True, forbid_unknown_fields=True):
    file: str = "events.jsonl"  # below paths.log
    max_bytes: int = 64 * 1024 * 1024
    keep: int = 8  # rotated files


class Paths(Struct, frozen=True, forbid_unknown_fields=True):
    state: str = "/var/lib/pinfold"
    runtime: str = "/run/pinfold"
    log: str = "/var/log/pinfold"
    cache: str = "/var/cache/pinfold"
    bpffs: str = "/sys/fs/bpf"


class Config(Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file. `instance` names the pins' folder and the cgroup that `sandbox run` uses."""

    instance: str = "pinfold"
    sandboxes: tuple[SandboxPattern, ...] = ()
    classes: dict[str, SandboxClass] = field(default_factory=dict)  # "default" is added where absent
    paths: Paths = Paths()
    ring: Ring = Ring()
    limits: Limits = Limits()
    rules: Rules = Rules()
    metrics: Metrics = Metrics()
    log: Log = Log()
