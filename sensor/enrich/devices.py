"""Device classes: their names, and which device number belongs to which.

Fixed numbers are those of Documentation/admin-guide/devices.txt; dynamic majors are read from
/proc/devices and dynamic misc minors from /proc/misc, both of which change when a module loads.
"""

from __future__ import annotations

from sensor.events.layouts import Device

BLOCK = 1  # BPF_DEVCG_DEV_BLOCK
CHAR = 2  # BPF_DEVCG_DEV_CHAR

Entry = tuple[int, int, int | None, Device]

NAMES = tuple(device.name.lower() for device in sorted(Device))
BY_NAME = {name: Device(number) for number, name in enumerate(NAMES)}
VERDICTS = ("allowed", "refused", "would_refuse", "unrecorded", "protected", "egress", "would_egress", "quarantine")
PRIOR_VERDICTS = ("allowed", "refused", "unknown")

_MISC = 10
_FIXED: tuple[tuple[int, int | None, Device], ...] = (
    # mem, kmem, port, kmsg, oldmem; nvram, microcode, crash, snapshot; MSRs and CPUID
    *((1, minor, Device.MEMORY) for minor in (1, 2, 4, 11, 12)),
    *((_MISC, minor, Device.MEMORY) for minor in (144, 184, 190, 231)),
    (202, None, Device.MEMORY),
    (203, None, Device.MEMORY),
    # null, zero, full, random, urandom
    *((1, minor, Device.ORDINARY) for minor in (3, 5, 7, 8, 9)),
    # terminals: BSD ptys, tty and ttyS, tty/console/ptmx, Unix 98 masters and slaves
    *((major, None, Device.ORDINARY) for major in (2, 3, 4)),
    *((5, minor, Device.ORDINARY) for minor in (0, 1, 2)),
    *((major, None, Device.ORDINARY) for major in range(128, 144)),
    (195, None, Device.NVIDIA),
    (226, None, Device.DRM),
    (261, None, Device.ACCEL),  # ACCEL_MAJOR of include/drm/drm_accel.h
    (_MISC, 232, Device.KVM),
    (_MISC, 238, Device.KVM),  # vhost-net
    (_MISC, 241, Device.KVM),  # vhost-vsock
    (_MISC, 200, Device.TUN),
    (_MISC, 229, Device.FUSE),
    (_MISC, 203, Device.FUSE),  # cuse
    (_MISC, 196, Device.VFIO),
    (231, None, Device.INFINIBAND),
    # Character devices that reach disks: SCSI generic, raw, device-mapper and loop control.
    (21, None, Device.BLOCK),
    (162, None, Device.BLOCK),
    (_MISC, 236, Device.BLOCK),
    (_MISC, 237, Device.BLOCK),
)
# Drivers' names in /proc/devices, by prefix; the first that fits. `aux` is DisplayPort's (drm_dp_aux),
# gdrdrv maps NVIDIA memory, uio hands a device's registers to user space as vfio does.
_DYNAMIC: tuple[tuple[str, Device], ...] = (
    ("nvidia", Device.NVIDIA),
    ("gdrdrv", Device.NVIDIA),
    ("kfd", Device.AMD),
    ("drm", Device.DRM),
    ("aux", Device.DRM),
    ("accel", Device.ACCEL),
    ("habanalabs", Device.ACCEL),
    ("neuron", Device.ACCEL),
    ("apex", Device.ACCEL),
    ("vfio", Device.VFIO),
    ("uio", Device.VFIO),
    ("infiniband", Device.INFINIBAND),
    ("dax", Device.MEMORY),
    ("nvme", Device.BLOCK),
    ("bsg", Device.BLOCK),
)
_DYNAMIC_MISC = {
    "rdma_cm": Device.INFINIBAND,
    "iommu": Device.VFIO,
    "vhost-vdpa": Device.KVM,
    "udmabuf": Device.DRM,
    "tun": Device.TUN,
    "fuse": Device.FUSE,
    "kvm": Device.KVM,
}


def device_table(proc_devices_text: str, proc_misc_text: str = "") -> list[Entry]:
    """(BPF_DEVCG_DEV_*, major, minor or None for all, class) of every character device with a class.

    Look up (major, minor) before (major, None). What is not listed is OTHER where it is a character
    device and BLOCK where it is a block device: every block device is.
    """
    table: dict[tuple[int, int | None], Device] = {(major, minor): device for major, minor, device in _FIXED}
    for major, driver in _character_majors(proc_devices_text):
        if (device := _dynamic(driver)) is not None:
            table.setdefault((major, None), device)
    for minor, driver in pairs(proc_misc_text):
        if driver in _DYNAMIC_MISC:
            table.setdefault((_MISC, minor), _DYNAMIC_MISC[driver])
    return [(CHAR, major, minor, device) for (major, minor), device in table.items()]


class Classifier:
    """The kernel's look-up, in Python: for descriptors that were open before the sensor."""

    def __init__(self, table: list[Entry]) -> None:
        self._table = {(kind, major, minor): device for kind, major, minor, device in table}

    def classify(self, kind: int, major: int, minor: int) -> Device:
        if kind == BLOCK:
            return Device.BLOCK
        exact = self._table.get((kind, major, minor))
        return exact if exact is not None else self._table.get((kind, major, None), Device.OTHER)


def class_name(number: int) -> str:
    return NAMES[number] if 0 <= number < len(NAMES) else "other"


def verdict_name(number: int) -> str:
    return VERDICTS[number] if 0 <= number < len(VERDICTS) else "unknown"


def prior_name(number: int) -> str:
    return PRIOR_VERDICTS[number] if 0 <= number < len(PRIOR_VERDICTS) else "unknown"


def access_text(bits: int) -> str:
    """BPF_DEVCG_ACC_*: mknod 1, read 2, write 4."""
    words = [word for bit, word in ((2, "read"), (4, "write"), (1, "mknod")) if bits & bit]
    return ",".join(words)


def _dynamic(driver: str) -> Device | None:
    return next((device for prefix, device in _DYNAMIC if driver.startswith(prefix)), None)


def _character_majors(text: str) -> list[tuple[int, str]]:
    return pairs(text.split("Block devices:", 1)[0])


def pairs(text: str) -> list[tuple[int, str]]:
    """Number and name of each line, as /proc/devices and /proc/misc have them."""
    pairs = []
    for line in text.splitlines():
        number, _, name = line.strip().partition(" ")
        if number.isascii() and number.isdigit() and len(number) <= 4:
            pairs.append((int(number), name.strip()))
    return pairs
