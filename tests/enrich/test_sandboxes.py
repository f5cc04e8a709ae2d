"""Which cgroups are sandboxes, what they are called, and what hostile or broken files of runtimes do."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from sensor.config import Config, Limits, SandboxClass, SandboxPattern
from sensor.enrich.sandboxes import containerd, crio, docker, kubernetes, pinfold, podman, systemd
from sensor.enrich.sandboxes.cgroupfs import CgroupPaths, find_cgroup2_mount
from sensor.enrich.sandboxes.named import FILE_MAX_BYTES, LABELS_MAX, HostFiles
from sensor.enrich.sandboxes.patterns import compile_pattern, expand, outermost
from sensor.enrich.sandboxes.registry import ENDED_KEPT, RETRIES_MAX, STRANGERS_KEPT, Registry
from sensor.errors import HostError

DATA = Path(__file__).parents[1] / "data" / "runtimes"
DOCKER, CONTAINERD, PAUSE, PODMAN, VOLATILE, CRIO = (letter * 64 for letter in "abcdef")
POD = "kubepods-burstable-pod0b6d1f7e_1111_4222_8333_123456789abc.slice"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A copy: what is believed depends on owner and mode, which a checkout does not keep."""
    copy = tmp_path / "root"
    shutil.copytree(DATA, copy)
    for path in copy.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return copy


@pytest.fixture
def files(root: Path) -> HostFiles:
    return HostFiles(str(root), os.getuid())


def path(text: str) -> tuple[str, ...]:
    return tuple(text.split("/"))


@pytest.mark.parametrize("where", [f"system.slice/docker-{DOCKER}.scope", f"docker/{DOCKER}", f"x/docker/{DOCKER}"])
def test_docker(files: HostFiles, where: str) -> None:
    found = docker.recognise(path(where), files)
    assert found is not None
    assert (found.runtime, found.name, found.certain) == ("docker", "rock-7f3c", True)
    assert found.labels["com.docker.compose.service"] == "default"


@pytest.mark.parametrize("where", [f"{POD}/cri-containerd-{CONTAINERD}.scope", f"kubepods/burstable/pod1/{CONTAINERD}"])
def test_containerd(files: HostFiles, where: str) -> None:
    found = containerd.recognise(path(where), files)
    assert found is not None
    assert (found.runtime, found.name) == ("containerd", "training/agent-0/agent")
    assert found.labels["io.kubernetes.cri.sandbox-uid"].startswith("0b6d1f7e")


def test_the_pause_container_goes_by_its_pod(files: HostFiles) -> None:
    found = containerd.recognise((POD, f"cri-containerd-{PAUSE}.scope"), files)
    assert found is not None
    assert found.name == "training/agent-0"


@pytest.mark.parametrize("where", [f"{POD}/crio-{CRIO}.scope", f"kubepods/besteffort/pod1/{CRIO}"])
def test_crio(files: HostFiles, where: str) -> None:
    found = crio.recognise(path(where), files)
    assert found is not None
    assert (found.runtime, found.name) == ("crio", "lab/worker-3/worker")


def test_monitors_of_containers_are_not_containers(files: HostFiles) -> None:
    assert crio.recognise((POD, f"crio-conmon-{CRIO}.scope"), files) is None
    assert podman.recognise(("machine.slice", f"libpod-conmon-{PODMAN}.scope"), files) is None


@pytest.mark.parametrize(("identity", "name"), [(PODMAN, "builder"), (VOLATILE, "scratch")])
def test_podman(files: HostFiles, identity: str, name: str) -> None:
    for leaf in (f"libpod-{identity}.scope", f"libpod-{identity}"):
        found = podman.recognise(("machine.slice", leaf), files)
        assert found is not None
        assert (found.runtime, found.name) == ("podman", name)


def test_systemd(files: HostFiles) -> None:
    found = systemd.recognise(("system.slice", "run-r0123456789abcdef.scope"), files)
    assert found is not None
    assert (found.runtime, found.name) == ("systemd", "run-r0123456789abcdef.scope")
    assert found.labels == {"Description": "/usr/bin/python3 train.py"}
    plain = systemd.recognise(("system.slice", "nginx.service"), files)
    assert plain is not None
    assert (plain.name, plain.labels) == ("nginx.service", {})
    assert systemd.recognise(("system.slice",), files) is None


def test_pinfold_and_other_paths() -> None:
    found = pinfold.recognise(("pinfold", "demo"), "pinfold")
    assert found is not None
    assert (found.runtime, found.name) == ("pinfold", "demo")
    assert pinfold.recognise(("pinfold", "demo"), "other") is None
    assert pinfold.recognise(("pinfold", "demo", "inner"), "pinfold") is None


def test_a_pod_is_named_by_its_first_container(files: HostFiles, tmp_path: Path) -> None:
    mount = tmp_path / "cg"
    pod = mount / "kubepods.slice" / POD
    pod.mkdir(parents=True)
    components = ("kubepods.slice", POD)
    early = kubernetes.recognise(components, files, str(mount))
    assert early is not None
    assert (early.name, early.certain) == ("pod-0b6d1f7e-1111-4222-8333-123456789abc", False)
    (pod / f"cri-containerd-{CONTAINERD}.scope").mkdir()
    later = kubernetes.recognise(components, files, str(mount))
    assert later is not None
    assert (later.runtime, later.name, later.certain) == ("kubernetes", "training/agent-0", True)


DOCKER_FILE = f"/var/lib/docker/containers/{DOCKER}/config.v2.json"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'{"Name": 7}',
        b'{"Name": "\xff"}',
        b'{"Name": "/"}',
        b'{"Config": {"Labels": []}, "Name": "/x"}',
        b"[" * 100_000,
        b'{"Config":' * 5000 + b"1" + b"}" * 5000,
        b'{"Name": "/big", "x": "' + b"y" * FILE_MAX_BYTES + b'"}',
    ],
)
def test_a_broken_file_gives_the_fallback(files: HostFiles, root: Path, content: bytes) -> None:
    (root / DOCKER_FILE[1:]).write_bytes(content)
    found = docker.recognise(("docker", DOCKER), files)
    assert found is not None
    assert (found.name, found.certain, found.labels) == (DOCKER[:12], False, {})


@pytest.mark.parametrize("broken", ["link", "fifo", "directory", "writable", "owner"])
def test_what_is_not_a_file_of_the_hosts_root_is_not_believed(root: Path, broken: str) -> None:
    target = root / DOCKER_FILE[1:]
    files = HostFiles(str(root), os.getuid() + (broken == "owner"))
    if broken == "writable":
        target.chmod(0o666)
    elif broken != "owner":
        target.rename(target.with_name("real.json"))
        if broken == "link":
            target.symlink_to("real.json")
        elif broken == "fifo":
            os.mkfifo(target)
        else:
            target.mkdir()
    found = docker.recognise(("docker", DOCKER), files)
    assert found is not None
    assert not found.certain
    assert sum(files.counters.values()) == 1


def test_names_and_labels_are_bounded_and_printable(files: HostFiles, root: Path) -> None:
    labels = {f"k{index}\n": "v\x1b[2J" * 100 for index in range(500)} | {"bidi": "\u202eexe.txt"}
    record = {"Name": "/\x1b]0;owned\x07\u202e" + "n" * 5000, "Config": {"Labels": labels}}
    (root / DOCKER_FILE[1:]).write_text(json.dumps(record))
    found = docker.recognise(("docker", DOCKER), files)
    assert found is not None
    assert found.name.isprintable()
    assert len(found.name) == 253
    assert len(found.labels) <= LABELS_MAX
    assert all(len(text) <= 253 and text.isprintable() for item in found.labels.items() for text in item)


@pytest.mark.parametrize("identity", ["../../../etc", "A" * 64, "a" * 63, "a" * 65, "a" * 63 + "\n", "٣" * 64])
def test_only_container_ids_reach_a_path(files: HostFiles, identity: str) -> None:
    assert docker.recognise(("docker", identity), files) is None
    assert docker.recognise((f"docker-{identity}.scope",), files) is None
    assert not files.counters


# Patterns.

PATTERNS = [
    compile_pattern(SandboxPattern(text, class_=class_))
    for text, class_ in (
        ("system.slice/docker-*.scope", "docker"),
        ("docker/*", "docker"),
        ("kube/*/pod*", "pod"),
        ("boxes/*/inner-*", "inner"),
        ("boxes/*", "box"),
    )
]


@pytest.mark.parametrize(
    ("cgroup", "match"),
    [
        ("system.slice/docker-1.scope", ("system.slice/docker-1.scope", "docker")),
        ("/system.slice/docker-1.scope/docker/2", ("system.slice/docker-1.scope", "docker")),
        ("system.slice/docker-.scope", ("system.slice/docker-.scope", "docker")),
        ("system.slice/docker-1.service", None),
        ("system.slice", None),
        ("other/docker/1", None),
        ("kube/a/pod1/x/y", ("kube/a/pod1", "pod")),
        ("kube/a/b/pod1", None),
        ("boxes/a/inner-b", ("boxes/a", "box")),
        ("", None),
    ],
)
def test_the_outermost_match_is_the_sandbox(cgroup: str, match: tuple[str, str] | None) -> None:
    assert outermost(PATTERNS, cgroup) == match


def test_prefix_and_suffix_may_not_overlap() -> None:
    pattern = compile_pattern(SandboxPattern("a/xyx*yx"))
    assert not pattern.matches(("a", "xyx"))
    assert pattern.matches(("a", "xyxyx"))


def test_expand_finds_folders_only(tmp_path: Path) -> None:
    for name in ("boxes/a", "boxes/b/inner-1", "kube/q/pod1", "kube/q/other"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "boxes" / "file").touch()
    (tmp_path / "boxes" / "link").symlink_to("a")
    found = [sorted(expand(str(tmp_path), pattern)) for pattern in PATTERNS]
    assert found == [[], [], ["kube/q/pod1"], ["boxes/b/inner-1"], ["boxes/a", "boxes/b"]]


# The registry.


@pytest.fixture
def registry(tmp_path: Path, files: HostFiles) -> Registry:
    patterns = (SandboxPattern("boxes/*"), SandboxPattern("boxes/*/inner"), SandboxPattern("docker/*"))
    return Registry(Config(sandboxes=patterns, limits=Limits(sandboxes=300)), str(tmp_path / "cg"), files)


def test_scan_finds_the_outermost_once(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "cg/boxes/a/inner").mkdir(parents=True)
    (tmp_path / f"cg/docker/{DOCKER}").mkdir(parents=True)
    found = registry.scan()
    assert sorted(sandbox.name for sandbox in found) == ["boxes/a", "rock-7f3c"]
    assert registry.scan() == []
    assert len(registry) == 2
    inner = (tmp_path / "cg/boxes/a/inner").stat().st_ino
    assert inner not in registry.by_id


def test_a_nested_birth_is_its_outermost_sandboxs(registry: Registry) -> None:
    assert registry.born(1, "/boxes/a", 5) is not None
    assert registry.born(2, "/boxes/a/inner", 6) is None
    assert registry.counters["nested_births"] == 1


def test_a_name_that_comes_later_is_found_later(registry: Registry, root: Path) -> None:
    target = root / DOCKER_FILE[1:]
    aside = target.with_name("aside")
    target.rename(aside)
    sandbox = registry.born(1, f"/docker/{DOCKER}", 5)
    assert sandbox is not None
    assert (sandbox.name, sandbox.runtime) == (DOCKER[:12], "docker")
    registry.retry_names()
    assert registry.get(1).name == DOCKER[:12]
    aside.rename(target)
    registry.retry_names()
    assert registry.get(1).name == "rock-7f3c"


def test_names_are_not_asked_for_ever(registry: Registry) -> None:
    registry.born(1, f"/docker/{'9' * 64}", 5)
    for _ in range(2 * RETRIES_MAX):
        registry.retry_names()
    assert registry.get(1).retries == RETRIES_MAX


def test_a_new_configuration_changes_classes_and_grants_of_the_living(registry: Registry) -> None:
    registry.born(1, "/boxes/a", 5)
    registry.born(2, "/docker/x", 5)
    changed = Config(
        sandboxes=(SandboxPattern("boxes/*", class_="gpu"),), classes={"gpu": SandboxClass(granted_devices=("amd",))}
    )
    registry.reconfigure(changed)
    one, other = registry.get(1), registry.get(2)
    assert (one.class_, one.granted, one.gpu_granted) == ("gpu", ("amd",), True)
    assert (other.class_, other.gpu_granted) == ("default", False), "it stays a sandbox while it lives"
    assert registry.outermost("docker/x") is None


def test_ended_sandboxes_keep_their_names_for_a_while(registry: Registry) -> None:
    for number in range(1, ENDED_KEPT + 11):
        registry.born(number, f"/boxes/{number}", 5)
        assert registry.ended(number, 9) is not None
    assert len(registry) == 0
    assert registry.live() == []
    assert registry.get(ENDED_KEPT + 10).name == f"boxes/{ENDED_KEPT + 10}"
    assert registry.forgotten() == list(range(1, 11))
    assert registry.forgotten() == []


def test_a_cgroup_made_again_is_another_sandbox(registry: Registry) -> None:
    registry.born(1, "/boxes/a", 5)
    registry.ended(1, 6)
    assert registry.born(2, "/boxes/a", 7) is not None
    assert len(registry) == 1


def test_an_unknown_id_has_a_name_of_its_number(registry: Registry) -> None:
    for number in range(10**9, 10**9 + 2 * STRANGERS_KEPT):
        assert registry.get(number).name == f"cgroup-{number}"
    assert registry.get(2**64 - 1).class_ == "default"
    assert len(registry) == 0


def test_more_sandboxes_than_the_limit_are_counted(registry: Registry) -> None:
    for number in range(1, 311):
        assert registry.born(number, f"/boxes/{number}", 5) is not None
    assert len(registry) == 300
    assert registry.counters["sandboxes_overflow"] == 10


# Where cgroup2 is.

UNIFIED = "25 30 0:23 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
HYBRID = (
    "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n"
    "36 31 0:33 / /sys/fs/cgroup/devices rw,relatime - cgroup cgroup rw,devices\n"
    "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n"
)
PARTIAL = "50 1 0:23 /system.slice/x /mnt/part rw - cgroup2 cgroup2 rw\n51 1 0:23 / /mnt/a\\040b rw - cgroup2 none rw\n"


@pytest.mark.parametrize(
    ("text", "mount"), [(UNIFIED, "/sys/fs/cgroup"), (HYBRID, "/sys/fs/cgroup/unified"), (PARTIAL, "/mnt/a b")]
)
def test_the_mount_is_found_wherever_it_is(tmp_path: Path, text: str, mount: str) -> None:
    (tmp_path / "mountinfo").write_text(text)
    assert find_cgroup2_mount(str(tmp_path / "mountinfo")) == mount


@pytest.mark.parametrize("text", ["", "36 31 0:33 / /sys/fs/cgroup rw - cgroup cgroup rw\n", "garbage\n - \n"])
def test_no_cgroup2_is_one_clear_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "mountinfo").write_text(text)
    with pytest.raises(HostError) as raised:
        find_cgroup2_mount(str(tmp_path / "mountinfo"))
    assert "cgroup2" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_paths_by_id_are_none_where_there_is_no_cgroup2(tmp_path: Path) -> None:
    assert CgroupPaths(str(tmp_path)).path(tmp_path.stat().st_ino) is None
    assert CgroupPaths("/nonexistent").path(1) is None
    assert CgroupPaths(str(tmp_path)).path(-1) is None
