"""Which device somebody means: by class, by node, by number; also of drivers that are not loaded here."""

from __future__ import annotations

import os
import re
import stat

from msgspec import Struct

from sensor.configdevices import DEVICE_CLASSES
from sensor.configfile import found, near
from sensor.enrich.devices import BLOCK, CHAR, Classifier, class_name, device_table
from sensor.enrich.gpus import DRM, NVIDIA, NVIDIA_MODESET, NVIDIACTL, Number
from sensor.errors import UsageError

# Nodes of drivers, by their names below /dev: (pattern, kind, major, minor), a group being the minor. Numbers that the
# kernel gives out as drivers load are asked of /proc/devices by the driver's name.
_NODES: tuple[tuple[str, int, int | str, int | None], ...] = (
    (r"nvidia([0-9]{1,3})", CHAR, NVIDIA, None),
    (r"nvidiactl", CHAR, NVIDIA, NVIDIACTL),
    (r"nvidia-modeset", CHAR, NVIDIA, NVIDIA_MODESET),
    (r"nvidia-uvm", CHAR, "nvidia-uvm", 0),
    (r"nvidia-uvm-tools", CHAR, "nvidia-uvm", 1),
    (r"dri/(?:card|renderD)([0-9]{1,3})", CHAR, DRM, None),
    (r"(?:card|renderD)([0-9]{1,3})", CHAR, DRM, None),
    (r"kfd", CHAR, "kfd", 0),
    (r"kvm", CHAR, 10, 232),
    (r"(?:net/)?tun", CHAR, 10, 200),
    (r"fuse", CHAR, 10, 229),
    (r"mem", CHAR, 1, 1),
    (r"kmsg", CHAR, 1, 11),
    (r"null", CHAR, 1, 3),
    (r"zero", CHAR, 1, 5),
    (r"random", CHAR, 1, 8),
    (r"urandom", CHAR, 1, 9),
    (r"vfio/vfio", CHAR, 10, 196),
)
_NUMBER = re.compile(r"(?:(char|block|c|b):?)?([0-9]{1,4}):([0-9]{1,7})")


class Meant(Struct, frozen=True):
    """`number` is None of a whole class, and where a driver that is not loaded would give one out."""

    class_: str  # as `granted_devices` names it, or `ordinary`
    number: Number | None
    here: bool  # such a node is on this host


def meant(text: str, proc: str = "/proc", dev: str = "/dev") -> Meant:
    """:raises UsageError: it is no device that is known, with what was perhaps meant."""
    if text in DEVICE_CLASSES:
        return Meant(text, None, True)
    devices = _read(f"{proc}/devices")
    classify = Classifier(device_table(devices)).classify
    if (match := _NUMBER.fullmatch(text)) is not None:
        kind = BLOCK if (match[1] or "c").startswith("b") else CHAR
        number = (kind, int(match[2]), int(match[3]))
        return Meant(class_name(classify(*number)), number, True)
    name = text.removeprefix("/dev/")
    if name.startswith("/") or ".." in name.split("/"):
        raise UsageError(f"a device is a node below /dev, not {found(text)}")
    try:
        status = os.stat(f"{dev}/{name}")
    except (OSError, ValueError):
        return _elsewhere(text, name, devices)
    if not (stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode)):
        raise UsageError(f"/dev/{name} is no device")
    kind = BLOCK if stat.S_ISBLK(status.st_mode) else CHAR
    number = (kind, os.major(status.st_rdev), os.minor(status.st_rdev))
    return Meant(class_name(classify(*number)), number, True)


def _elsewhere(text: str, name: str, devices: str) -> Meant:
    """Not on this host: policies are written for others too."""
    for pattern, kind, major, minor in _NODES:
        match = re.fullmatch(pattern, name)
        if match is None:
            continue
        # A driver's table of its own, so that its class is the same whether it is loaded or not.
        loaded = re.search(rf"^ *([0-9]+) {major}$", devices, re.MULTILINE) if isinstance(major, str) else None
        given = int(loaded[1]) if loaded is not None else major
        if isinstance(given, str):
            table = device_table(f"Character devices:\n511 {given}\n")
            return Meant(class_name(Classifier(table).classify(kind, 511, 0)), None, False)
        number = (kind, given, int(match[1]) if minor is None else minor)
        return Meant(class_name(Classifier(device_table(devices)).classify(*number)), number, False)
    names = [*DEVICE_CLASSES, *(pattern for pattern, *_ in _NODES if pattern.isidentifier()), "nvidia0", "nvidia-uvm"]
    raise UsageError(f"no device {found(text)} is known here{near(name, names)}")


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read(65536)
    except OSError:
        return ""
