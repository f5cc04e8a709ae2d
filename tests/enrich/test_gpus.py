"""Single granted GPUs, by what drivers show; the trees here are as the drivers write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from sensor.config import Config, SandboxClass
from sensor.enrich.devices import CHAR
from sensor.enrich.gpus import drivers, resolve, single_grants
from sensor.errors import ConfigError

ONE = "GPU-5a1f3c9d-0a1b-2c3d-4e5f-60718293a4b5"
TWO = "GPU-00000000-0a1b-2c3d-4e5f-60718293a4b5"
DEVICES = "Character devices:\n  1 mem\n195 nvidia\n195 nvidiactl\n226 drm\n508 nvidia-uvm\n511 kfd\n\nBlock devices:\n"
CONTROL = [(CHAR, 195, 255), (CHAR, 195, 254), (CHAR, 508, 0)]


def granting(*devices: str, name: str = "a") -> Config:
    return Config(classes={name: SandboxClass(granted_devices=devices)})


class Tree:
    def __init__(self, folder: Path) -> None:
        self.proc, self.sys = str(folder / "proc"), str(folder / "sys")
        (folder / "proc").mkdir()
        (folder / "proc/devices").write_text(DEVICES)

    def nvidia(self, address: str, uuid: str, minor: int) -> None:
        folder = Path(self.proc, "driver/nvidia/gpus", address)
        folder.mkdir(parents=True)
        (folder / "information").write_text(
            f"Model: \t\t NVIDIA H200\nIRQ:   \t\t 17\nGPU UUID: \t {uuid}\nVideo BIOS: \t ??.??\n"
            f"Bus Location: \t {address}\nDevice Minor: \t {minor}\nGPU Excluded:\t No\n"
        )

    def amd(self, *minors: int) -> None:
        for node, minor in enumerate(minors):
            folder = Path(self.sys, "class/kfd/kfd/topology/nodes", str(node))
            folder.mkdir(parents=True)
            (folder / "properties").write_text(f"cpu_cores_count 8\nsimd_count 16\ndrm_render_minor {minor}\n")

    def drm(self, *names: str) -> None:
        for name in names:
            Path(self.sys, "class/drm", name).mkdir(parents=True)

    def grants(self, *devices: str) -> list[tuple[int, int, int]]:
        return single_grants(granting(*devices), self.proc, self.sys).get("a", [])


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def test_nvidia_by_number_and_by_uuid(tree: Tree) -> None:
    tree.nvidia("0000:3b:00.0", TWO, 0)
    tree.nvidia("0000:18:00.0", ONE, 1)
    assert tree.grants("nvidia:1") == [(CHAR, 195, 1), *CONTROL]
    assert tree.grants(f"nvidia:{ONE}") == [(CHAR, 195, 1), *CONTROL], "a UUID is not where the bus has it"
    assert tree.grants("kvm", "nvidia:0", f"nvidia:{ONE}") == [(CHAR, 195, 0), *CONTROL, (CHAR, 195, 1)]


def test_a_gpu_that_the_driver_does_not_list_is_refused_with_what_there_is(tree: Tree) -> None:
    tree.nvidia("0000:3b:00.0", ONE, 0)
    for unknown in ("nvidia:1", f"nvidia:{TWO}"):
        with pytest.raises(ConfigError) as caught:
            tree.grants("fuse", unknown)
        expected = f"classes.a.granted_devices[1]: expected one of the GPUs nvidia:0 ({ONE}), found '{unknown}'"
        assert str(caught.value) == expected


def test_the_refusal_has_its_line(tree: Tree, tmp_path: Path) -> None:
    tree.nvidia("0000:3b:00.0", ONE, 0)
    file = tmp_path / "p.yaml"
    file.write_text("classes:\n  a:\n    granted_devices:\n    - nvidia:4\n")
    with pytest.raises(ConfigError, match=rf"^{file}:4: classes\.a\.granted_devices\[0\]: expected one of the GPUs"):
        single_grants(granting("nvidia:4"), tree.proc, tree.sys, file=str(file))


def test_without_a_driver_a_number_is_known_and_a_uuid_waits(tree: Tree) -> None:
    assert tree.grants("nvidia:3")[0] == (CHAR, 195, 3)
    grants = resolve(granting(f"nvidia:{ONE}", "amd:0"), drivers(tree.proc, tree.sys))
    assert (grants.numbers, grants.problems) == ({}, [])
    assert grants.pending == [
        f"classes.a.granted_devices[0]: nvidia:{ONE} is not granted as yet: no nvidia driver lists its GPUs",
        "classes.a.granted_devices[1]: amd:0 is not granted as yet: no amdgpu driver lists its GPUs",
    ]


def test_a_uuid_that_the_driver_does_not_tell_yet_waits(tree: Tree) -> None:
    tree.nvidia("0000:3b:00.0", "GPU-????????-????-????-????-????????????", 0)
    grants = resolve(granting(f"nvidia:{ONE}"), drivers(tree.proc, tree.sys))
    assert grants.problems == []
    assert "when it is first used" in grants.pending[0]
    assert tree.grants("nvidia:0")[0] == (CHAR, 195, 0)


def test_amd_is_kfd_and_its_render_node(tree: Tree) -> None:
    tree.amd(0, 128, 136)
    assert tree.grants("amd:1") == [(CHAR, 511, 0), (CHAR, 226, 136)], "node 0 is the CPU"
    with pytest.raises(ConfigError, match="one of the GPUs amd:0, amd:1, found 'amd:2'"):
        tree.grants("amd:2")


def test_drm_and_accel_by_minor(tree: Tree) -> None:
    assert tree.grants("drm:128", "accel:2") == [(CHAR, 226, 128), (CHAR, 261, 2)]
    tree.drm("card0", "renderD128", "card0-HDMI-A-1", "version")
    assert tree.grants("drm:128") == [(CHAR, 226, 128)]
    with pytest.raises(ConfigError, match="one of the nodes drm:0, drm:128"):
        tree.grants("drm:129")


def test_classes_alone_ask_no_driver(tmp_path: Path) -> None:
    assert single_grants(granting("nvidia", "kvm"), str(tmp_path / "absent")) == {}


def test_what_a_driver_writes_otherwise_is_passed_over(tree: Tree) -> None:
    tree.nvidia("0000:3b:00.0", "none", 0)
    Path(tree.proc, "driver/nvidia/gpus/0000:3b:00.0/information").write_bytes(b"\xff\0" * 20000)
    Path(tree.proc, "driver/nvidia/gpus/other").write_text("a file in the place of a folder")
    assert drivers(tree.proc, tree.sys).nvidia is None
