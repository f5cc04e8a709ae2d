"""Granted devices: whole classes, or single GPUs by number or UUID. Which device numbers they are is not known here:
sensor/enrich/gpus.py asks the drivers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Literal, get_args

from msgspec import Struct

from sensor.configfile import KeyPath, Problem, found, near

DeviceClassName = Literal[
    "nvidia", "amd", "drm", "accel", "kvm", "tun", "fuse", "memory", "block", "vfio", "infiniband", "other"
]
DEVICE_CLASSES: tuple[str, ...] = get_args(DeviceClassName)
GPU_CLASSES: frozenset[str] = frozenset({"nvidia", "amd", "drm", "accel"})

HIGHEST_INDEX = 253  # 195:254 and 195:255 are nvidia-modeset and nvidiactl; drm has 0 to 191 in use
MOST_GRANTED = 256
_SINGLE = re.compile(r"(nvidia|amd|drm|accel):([0-9]{1,3})")
_UUID = re.compile(r"nvidia:(GPU-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})", re.IGNORECASE)


class SingleDevice(Struct, frozen=True, gc=False):
    """One GPU: of nvidia N is that of /dev/nvidiaN, of amd the N-th that the driver lists, of drm and accel the minor
    (renderD128 is drm:128)."""

    class_: str
    index: int = -1  # or by UUID
    uuid: str = ""  # as the driver writes it: GPU- and lower case

    def __str__(self) -> str:
        return f"{self.class_}:{self.uuid or self.index}"


Grant = str | SingleDevice  # a class by its name


def parse_grant(text: str) -> Grant | None:
    """None where it is neither a class nor a single GPU."""
    if text in DEVICE_CLASSES:
        return text
    if (match := _UUID.fullmatch(text)) is not None:
        return SingleDevice("nvidia", uuid="GPU-" + match[1][4:].lower())
    match = _SINGLE.fullmatch(text)
    if match is None or int(match[2]) > HIGHEST_INDEX:
        return None
    return SingleDevice(match[1], int(match[2]))


def granted_classes(granted: Sequence[str]) -> tuple[str, ...]:
    """Those that are granted whole."""
    return tuple(text for text in granted if text in DEVICE_CLASSES)


def granted_singles(granted: Sequence[str]) -> tuple[SingleDevice, ...]:
    parsed = (parse_grant(text) for text in granted)
    return tuple(grant for grant in parsed if isinstance(grant, SingleDevice))


def grants_gpu(granted: Sequence[str]) -> bool:
    """Whether any GPU is granted, a class or a single one."""
    return not GPU_CLASSES.isdisjoint(text.partition(":")[0] for text in granted)


def grant_problems(at: KeyPath, granted: Sequence[str]) -> Iterator[Problem]:
    """`at`: the path of the list."""
    if len(granted) > MOST_GRANTED:
        yield Problem(at, f"at most {MOST_GRANTED} entries", found(len(granted)))
        return
    seen: dict[Grant, int] = {}
    for index, text in enumerate(granted):
        grant = parse_grant(text)
        if grant is None:
            yield Problem((*at, index), _expected(text), found(text) + near(text.partition(":")[0], DEVICE_CLASSES))
        elif grant in seen:
            yield Problem((*at, index), "each device once", f"{found(text)} again")
        elif isinstance(grant, SingleDevice) and grant.class_ in granted:
            yield Problem((*at, index), f"{grant.class_} or some of its devices, not both", found(text))
        else:
            seen[grant] = index


def _expected(text: str) -> str:
    class_, colon, rest = text.partition(":")
    if rest.upper().startswith("MIG-"):
        return "a whole GPU: a part of one (MIG) cannot be granted by itself"
    if colon and class_ in GPU_CLASSES:
        by_uuid = ", or a UUID such as nvidia:GPU-5a1f…, in full" if class_ == "nvidia" else ""
        return f"a number from 0 to {HIGHEST_INDEX} after {class_}:{by_uuid}"
    if colon and class_ in DEVICE_CLASSES:
        return f"{class_} as a whole: single devices are of nvidia, amd, drm and accel"
    return "one of " + ", ".join(DEVICE_CLASSES) + ", or a single GPU such as nvidia:0"
