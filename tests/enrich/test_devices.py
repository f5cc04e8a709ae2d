from __future__ import annotations

import pytest

from sensor.config import GPU_CLASSES
from sensor.enrich.devices import (
    BY_NAME,
    Classifier,
    access_text,
    class_name,
    device_table,
    prior_name,
    verdict_name,
)
from sensor.events.layouts import Device, Verdict

PROC_DEVICES = """Character devices:
  1 mem
  4 tty
 10 misc
136 pts
195 nvidia
195 nvidia-modeset
226 drm
231 infiniband_mad
231 infiniband_verbs
234 nvidia-nvlink
235 nvidia-caps
238 aux
239 infiniband_mad
241 nvme-generic
242 nvme
243 vfio
244 kfd
249 watchdog
261 accel
510 nvidia-uvm
511 nvidia-nvswitch

Block devices:
  7 loop
240 nvidia-looks-like-one
259 blkext
"""
PROC_MISC = """ 58 rdma_cm
 59 iommu
196 vfio
232 kvm
"""


@pytest.fixture
def classifier() -> Classifier:
    return Classifier(device_table(PROC_DEVICES, PROC_MISC))


@pytest.mark.parametrize(
    ("major", "minor", "expected"),
    [
        (1, 1, Device.MEMORY),
        (1, 2, Device.MEMORY),
        (1, 3, Device.ORDINARY),
        (1, 4, Device.MEMORY),
        (1, 5, Device.ORDINARY),
        (1, 7, Device.ORDINARY),
        (1, 8, Device.ORDINARY),
        (1, 9, Device.ORDINARY),
        (1, 11, Device.MEMORY),
        (4, 0, Device.ORDINARY),
        (4, 64, Device.ORDINARY),
        (5, 0, Device.ORDINARY),
        (5, 1, Device.ORDINARY),
        (5, 2, Device.ORDINARY),
        (5, 3, Device.OTHER),
        (7, 0, Device.OTHER),
        (10, 144, Device.MEMORY),
        (10, 196, Device.VFIO),
        (10, 200, Device.TUN),
        (10, 229, Device.FUSE),
        (10, 232, Device.KVM),
        (10, 58, Device.INFINIBAND),
        (10, 59, Device.VFIO),
        (10, 237, Device.BLOCK),
        (10, 130, Device.OTHER),
        (21, 0, Device.BLOCK),
        (136, 7, Device.ORDINARY),
        (143, 255, Device.ORDINARY),
        (144, 0, Device.OTHER),
        (195, 0, Device.NVIDIA),
        (195, 255, Device.NVIDIA),
        (202, 3, Device.MEMORY),
        (203, 0, Device.MEMORY),
        (226, 128, Device.DRM),
        (231, 192, Device.INFINIBAND),
        (234, 0, Device.NVIDIA),
        (235, 1, Device.NVIDIA),
        (238, 0, Device.DRM),
        (239, 0, Device.INFINIBAND),
        (240, 0, Device.OTHER),
        (241, 0, Device.BLOCK),
        (243, 9, Device.VFIO),
        (244, 0, Device.AMD),
        (261, 0, Device.ACCEL),
        (510, 0, Device.NVIDIA),
        (511, 1, Device.NVIDIA),
    ],
)
def test_character_devices(classifier: Classifier, major: int, minor: int, expected: Device) -> None:
    assert classifier.classify(2, major, minor) is expected


@pytest.mark.parametrize("major", [1, 7, 8, 195, 202, 226, 259])
def test_every_block_device_is_one(classifier: Classifier, major: int) -> None:
    assert classifier.classify(1, major, 3) is Device.BLOCK


def test_fixed_numbers_need_no_proc() -> None:
    table = device_table("")
    assert (2, 195, None, Device.NVIDIA) in table
    assert (2, 10, 200, Device.TUN) in table


def test_a_driver_cannot_take_a_fixed_number() -> None:
    table = device_table("Character devices:\n  1 mem\n136 nvidia-odd\n")
    assert Classifier(table).classify(2, 136, 0) is Device.ORDINARY


@pytest.mark.parametrize("text", ["\0\n 999999999999 nvidia\n-1 drm\n", "Character devices:\nx nvidia\n٣ drm\n"])
def test_odd_lines_are_passed_over(text: str) -> None:
    assert device_table(text) == device_table("")


def test_names() -> None:
    assert class_name(Device.INFINIBAND) == "infiniband"
    assert class_name(250) == "other"
    assert [BY_NAME[class_name(device)] for device in Device] == list(Device)
    assert set(BY_NAME) >= GPU_CLASSES
    verdicts = ["allowed", "refused", "would_refuse", "unrecorded", "protected", "egress", "would_egress", "quarantine"]
    assert [verdict_name(v) for v in Verdict] == verdicts
    assert [verdict_name(77), prior_name(0), prior_name(1), prior_name(2), prior_name(9)] == [
        "unknown",
        "allowed",
        "refused",
        "unknown",
        "unknown",
    ]
    assert [access_text(bits) for bits in (0, 1, 2, 4, 7)] == ["", "mknod", "read", "write", "read,write,mknod"]
