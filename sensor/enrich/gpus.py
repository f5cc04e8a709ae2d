"""Which device numbers a single granted GPU is: asked of what the drivers show under /proc and /sys.

nvidia: /proc/driver/nvidia/gpus/*/information has UUID and minor of each GPU; CUDA also needs nvidiactl, nvidia-uvm
and nvidia-modeset, which reach no GPU without its own node. amd: the KFD topology has each GPU's render node, and
amdgpu asks the device cgroup for that node before it lets a process use the GPU through /dev/kfd
(kfd_devcgroup_check_permission).
"""

from __future__ import annotations

import os
import re

from msgspec import Struct

from sensor.config import Config
from sensor.configdevices import SingleDevice, granted_singles, parse_grant
from sensor.configfile import KeyPath, Problem, found, key_name, lines
from sensor.enrich.devices import CHAR, pairs
from sensor.errors import ConfigError

NVIDIA, DRM, ACCEL = 195, 226, 261
NVIDIACTL, NVIDIA_MODESET = 255, 254
GPUS_MAX = 256
_READ_BYTES = 16384

Number = tuple[int, int, int]  # kind (BPF_DEVCG_DEV_*), major, minor


class NvidiaGpu(Struct, frozen=True, gc=False):
    minor: int
    uuid: str  # with ? in it until the GPU is first used

    def __str__(self) -> str:
        return f"nvidia:{self.minor} ({self.uuid})"


class Drivers(Struct, frozen=True):
    """What the drivers list now; None where the driver is not there, or lists nothing."""

    nvidia: tuple[NvidiaGpu, ...] | None
    amd: tuple[int, ...] | None  # render minors, in the driver's order
    drm: frozenset[int] | None  # minors
    majors: dict[str, int]  # dynamic ones, by the driver's name


class Grants(Struct, frozen=True):
    """`pending`: what cannot be told before a driver is there; one line each."""

    numbers: dict[str, list[Number]]  # by class; classes without single devices are left out
    pending: list[str]
    problems: list[Problem]


def drivers(proc: str = "/proc", sys: str = "/sys") -> Drivers:
    majors = {name: major for major, name in pairs(_read(f"{proc}/devices").split("Block devices:", 1)[0])}
    return Drivers(_nvidia(f"{proc}/driver/nvidia/gpus"), _amd(f"{sys}/class/kfd/kfd/topology/nodes"),
                   _drm(f"{sys}/class/drm"), majors)  # fmt: skip


def resolve(config: Config, there: Drivers) -> Grants:
    grants = Grants({}, [], [])
    for name, settings in config.classes.items():
        for index, text in enumerate(settings.granted_devices):
            device = parse_grant(text)
            if not isinstance(device, SingleDevice):
                continue
            at: KeyPath = ("classes", name, "granted_devices", index)
            numbers = numbers_of(device, there)
            if isinstance(numbers, list):
                mine = grants.numbers.setdefault(name, [])
                mine += (number for number in numbers if number not in mine)
            elif numbers.startswith("one of"):
                grants.problems.append(Problem(at, numbers, found(text)))
            else:
                grants.pending.append(f"{key_name(at)}: {device} is not granted as yet: {numbers}")
    return grants


def single_grants(
    config: Config, proc: str = "/proc", sys: str = "/sys", *, file: str | None = None
) -> dict[str, list[Number]]:
    """Device numbers that a class's sandboxes may open beside its classes of devices. Drivers come and go: to be asked
    again when /proc/devices changes. What is pending is left out; `resolve` says it.

    :raises ConfigError: a GPU that its driver does not list. `file`: where the configuration is from.
    """
    if not any(granted_singles(settings.granted_devices) for settings in config.classes.values()):
        return {}
    grants = resolve(config, drivers(proc, sys))
    if grants.problems:
        raise ConfigError("\n".join(_located(grants.problems, file)))
    return grants.numbers


def numbers_now(config: Config) -> dict[str, list[Number]]:
    """As `single_grants`, without what is refused."""
    singles = any(granted_singles(settings.granted_devices) for settings in config.classes.values())
    return resolve(config, drivers()).numbers if singles else {}


def _located(problems: list[Problem], file: str | None) -> list[str]:
    line = lines(file) if file is not None else None
    return [
        (f"{file}:{line(each.path)}: " if line is not None else "")
        + f"{key_name(each.path)}: expected {each.expected}, found {each.found}"
        for each in problems
    ]


def numbers_of(device: SingleDevice, there: Drivers) -> list[Number] | str:
    """Or why not: `one of …` where the driver knows no such GPU, else what is waited for."""
    if device.class_ == "nvidia":
        return _nvidia_numbers(device, there)
    if device.class_ == "amd":
        return _amd_numbers(device, there)
    if device.class_ == "accel":
        return [(CHAR, ACCEL, device.index)]
    if there.drm is not None and device.index not in there.drm:
        return "one of the nodes " + ", ".join(f"drm:{minor}" for minor in sorted(there.drm))
    return [(CHAR, DRM, device.index)]


def _amd_numbers(device: SingleDevice, there: Drivers) -> list[Number] | str:
    if there.amd is None or "kfd" not in there.majors:
        return "no amdgpu driver lists its GPUs"
    if device.index >= len(there.amd):
        return "one of the GPUs " + ", ".join(f"amd:{index}" for index in range(len(there.amd)))
    return [(CHAR, there.majors["kfd"], 0), (CHAR, DRM, there.amd[device.index])]


def _nvidia_numbers(device: SingleDevice, there: Drivers) -> list[Number] | str:
    minor = device.index
    if there.nvidia is None:
        if device.uuid:
            return "no nvidia driver lists its GPUs"
    else:
        mine = [gpu.minor for gpu in there.nvidia if gpu.uuid == device.uuid or gpu.minor == device.index]
        if not mine:
            if device.uuid and any("?" in gpu.uuid for gpu in there.nvidia):
                return "the driver tells a GPU's UUID when it is first used; nvidia-persistenced keeps it known"
            return "one of the GPUs " + ", ".join(map(str, there.nvidia))
        minor = mine[0]
    control: list[Number] = [(CHAR, NVIDIA, NVIDIACTL), (CHAR, NVIDIA, NVIDIA_MODESET)]
    if "nvidia-uvm" in there.majors:
        control.append((CHAR, there.majors["nvidia-uvm"], 0))
    return [(CHAR, NVIDIA, minor), *control]


def _nvidia(folder: str) -> tuple[NvidiaGpu, ...] | None:
    listed = []
    for name in _names(folder):
        text = _read(f"{folder}/{name}/information")
        uuid = re.search(r"^GPU UUID:\s*(GPU-[0-9a-fA-F?-]{36})\s*$", text, re.MULTILINE)
        minor = re.search(r"^Device Minor:\s*([0-9]{1,3})\s*$", text, re.MULTILINE)
        if minor is not None:
            listed.append(NvidiaGpu(int(minor[1]), "GPU-" + uuid[1][4:].lower() if uuid is not None else "GPU-?"))
    return tuple(sorted(listed, key=lambda gpu: gpu.minor)) or None


def _amd(folder: str) -> tuple[int, ...] | None:
    nodes = sorted(int(name) for name in _names(folder) if re.fullmatch(r"[0-9]{1,4}", name))
    minors = []
    for node in nodes:
        match = re.search(r"^drm_render_minor ([0-9]{1,3})$", _read(f"{folder}/{node}/properties"), re.MULTILINE)
        if match is not None and int(match[1]):  # 0: a CPU
            minors.append(int(match[1]))
    return tuple(minors) or None


def _drm(folder: str) -> frozenset[int] | None:
    matches = (re.fullmatch(r"(?:card|renderD)([0-9]{1,3})", name) for name in _names(folder))
    return frozenset(int(match[1]) for match in matches if match is not None) or None


def _names(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))[:GPUS_MAX]
    except OSError:
        return []


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read(_READ_BYTES)
    except OSError:
        return ""
