"""Sandboxes that move to another class once their labels or attributes are known."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from sensor.config import Config, Limits, SandboxClass, SandboxPattern
from sensor.configassign import Assignment
from sensor.enrich.sandboxes import containerd, crio
from sensor.enrich.sandboxes.assign import assigned
from sensor.enrich.sandboxes.attributes import ATTRIBUTES_MAX, AttributeStore
from sensor.enrich.sandboxes.named import HostFiles
from sensor.enrich.sandboxes.registry import Registry, Sandbox
from sensor.errors import NotFoundError, UsageError
from tests.enrich.test_sandboxes import CONTAINERD, CRIO, DOCKER, DOCKER_FILE, PAUSE, files, root  # noqa: F401

CLASSES = {"strict": SandboxClass(mode="enforce"), "gpu": SandboxClass(granted_devices=("nvidia",))}


def sandbox(**known: Any) -> Sandbox:
    given = {"path": "boxes/a", "runtime": "docker", "labels": {}, "attributes": {}} | known
    return Sandbox(
        1, given["path"], "default", "", given["runtime"], given["labels"], 0, False, (), True, "default",
        given["attributes"],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "known", "fits"),
    [
        ({"labels": {"team": "rl"}}, {"labels": {"team": "rl"}}, True),
        ({"labels": {"team": "rl"}}, {"labels": {"team": "rl2"}}, False),
        ({"labels": {"team": "*"}}, {}, False),
        ({"labels": {"team": "rl-*"}}, {"labels": {"team": "rl-7"}}, True),
        ({"labels": {"team": "RL-?"}}, {"labels": {"team": "rl-7"}}, False),
        ({"labels": {"a": "1", "b": "2"}}, {"labels": {"a": "1"}}, False),
        ({"attributes": {"step": "?"}}, {"attributes": {"step": "7"}}, True),
        ({"attributes": {"team": "rl"}}, {"labels": {"team": "rl"}}, False),
        ({"runtime": "podman"}, {}, False),
        ({"path": "*/a"}, {"path": "x/boxes/a"}, True),
        ({"path": "boxes"}, {}, False),
        ({"labels": {"a": "1"}, "runtime": "podman"}, {"labels": {"a": "1"}}, False),
    ],
)
def test_a_rule_fits_when_all_of_it_holds(rule: dict[str, Any], known: dict[str, Any], fits: bool) -> None:
    found = assigned((Assignment("gpu", **rule),), sandbox(**known))
    assert found == ("gpu" if fits else None)


def test_the_first_rule_that_fits_counts() -> None:
    rules = (Assignment("a", path="x"), Assignment("b", path="boxes/*"), Assignment("c", path="*"))
    assert assigned(rules, sandbox()) == "b"


class Scene:
    def __init__(self, folder: Path, files: HostFiles) -> None:  # noqa: F811
        self.folder, self.files = folder, files
        self.told: list[tuple[int, str]] = []

    def registry(self, *rules: Assignment, boot: str = "0123456789") -> Registry:
        patterns = (SandboxPattern("boxes/*"), SandboxPattern("docker/*", "strict"))
        config = Config(sandboxes=patterns, classes=CLASSES, assign=rules, limits=Limits(sandboxes=300))
        made = Registry(config, str(self.folder / "cg"), self.files, AttributeStore(str(self.folder / "state"), boot))
        made.reclassified = lambda sandbox_id, class_: self.told.append((sandbox_id, class_))
        return made


@pytest.fixture
def scene(tmp_path: Path, files: HostFiles) -> Scene:  # noqa: F811
    return Scene(tmp_path, files)


COMPOSE = Assignment("gpu", labels={"com.docker.compose.project": "inspect-*"})
EVALUATION = Assignment("gpu", attributes={"purpose": "evaluation"})


def test_labels_at_birth_move_a_sandbox_and_the_kernel_is_told(scene: Scene) -> None:
    registry = scene.registry(COMPOSE)
    born = registry.born(7, f"/docker/{DOCKER}", 5)
    assert born is not None
    assert (born.class_, born.pattern_class, born.gpu_granted) == ("gpu", "strict", True)
    assert scene.told == [(7, "gpu")]


def test_labels_that_come_late_move_it_then(scene: Scene, root: Path) -> None:  # noqa: F811
    file = root / DOCKER_FILE[1:]
    shutil.move(file, root / "aside")
    registry = scene.registry(COMPOSE)
    born = registry.born(7, f"/docker/{DOCKER}", 5)
    assert born is not None
    assert (born.class_, scene.told) == ("strict", [])
    shutil.move(root / "aside", file)
    registry.retry_names()
    assert (born.class_, scene.told) == ("gpu", [(7, "gpu")])
    registry.retry_names()
    assert scene.told == [(7, "gpu")], "told once"


def test_attributes_move_it_and_back(scene: Scene) -> None:
    registry = scene.registry(EVALUATION)
    registry.born(7, "/boxes/a", 5)
    assert registry.set_attributes(7, {"purpose": "evaluation"}).class_ == "gpu"
    assert registry.set_attributes(7, {"purpose": "evaluation", "more": "x"}).attributes["more"] == "x"
    assert registry.set_attributes(7, {}).class_ == "default"
    assert scene.told == [(7, "gpu"), (7, "default")]


def test_a_reload_assigns_anew(scene: Scene) -> None:
    registry = scene.registry(COMPOSE)
    registry.born(7, f"/docker/{DOCKER}", 5)
    registry.born(8, "/boxes/a", 5)
    patterns = (SandboxPattern("boxes/*", "strict"), SandboxPattern("docker/*"))
    changed = Config(sandboxes=patterns, classes=CLASSES, assign=(Assignment("strict", runtime="docker"),))
    assert registry.classes_under(changed) == {7: "strict", 8: "strict"}
    assert (registry.get(7).class_, registry.get(8).class_) == ("gpu", "default"), "nothing has changed by asking"
    scene.told.clear()
    registry.reconfigure(changed)
    assert {one.id: one.class_ for one in registry.live()} == registry.classes_under(changed)
    assert scene.told == [(7, "strict")], "8 has what its pattern says"


def test_attributes_outlive_the_sensor_but_not_the_sandbox_or_the_boot(scene: Scene) -> None:
    registry = scene.registry(EVALUATION)
    for sandbox_id in (7, 8):
        registry.born(sandbox_id, f"/boxes/{sandbox_id}", 5)
        registry.set_attributes(sandbox_id, {"purpose": "evaluation"})
    registry.ended(8, 9)
    scene.told.clear()
    again = scene.registry(EVALUATION)
    assert [again.born(each, f"/boxes/{each}", 5).class_ for each in (7, 8)] == ["gpu", "default"]  # type: ignore[union-attr]
    assert scene.told == [(7, "gpu")]
    rebooted = scene.registry(EVALUATION, boot="9999999999")
    assert rebooted.born(7, "/boxes/7", 5).class_ == "default"  # type: ignore[union-attr]
    assert list((scene.folder / "state/attributes").iterdir()) == []


@pytest.mark.parametrize(
    "attributes",
    [
        {"a": "x" * 254}, {"": "x"}, {"a": "\x1b[2J"}, {"a\n": "x"}, {"a": 1},
        {str(number): "" for number in range(ATTRIBUTES_MAX + 1)},
    ],
)  # fmt: skip
def test_attributes_that_are_no_attributes_change_nothing(scene: Scene, attributes: dict[str, str]) -> None:
    registry = scene.registry(EVALUATION)
    registry.born(7, "/boxes/a", 5)
    registry.set_attributes(7, {"purpose": "evaluation"})
    with pytest.raises(UsageError):
        registry.set_attributes(7, attributes)
    assert registry.get(7).attributes == {"purpose": "evaluation"}


def test_nobody_has_attributes_who_is_not_there(scene: Scene) -> None:
    registry = scene.registry()
    registry.born(7, "/boxes/a", 5)
    registry.ended(7, 9)
    for sandbox_id in (7, 8):
        with pytest.raises(NotFoundError):
            registry.set_attributes(sandbox_id, {})


def test_attributes_of_what_ended_unseen_are_dropped_by_the_first_scan(scene: Scene) -> None:
    (scene.folder / "cg/boxes/a").mkdir(parents=True)
    alive = (scene.folder / "cg/boxes/a").stat().st_ino
    registry = scene.registry(EVALUATION)
    for sandbox_id, path in ((alive, "/boxes/a"), (8, "/boxes/b")):
        registry.born(sandbox_id, path, 5)
        registry.set_attributes(sandbox_id, {"purpose": "evaluation"})
    again = scene.registry(EVALUATION)
    assert [one.class_ for one in again.scan()] == ["gpu"]
    assert [file.name for file in (scene.folder / "state/attributes").iterdir()] == [f"01234567-{alive}.json"]


@pytest.mark.parametrize("content", [b"", b"[]", b'{"a": 1}', b"{" * 1000, b"\xff", b'{"a": "\\u001b"}'])
def test_damaged_attributes_are_none(tmp_path: Path, content: bytes) -> None:
    store = AttributeStore(str(tmp_path), "0123456789")
    store.put(7, {"a": "b"})
    (file,) = (tmp_path / "attributes").iterdir()
    assert AttributeStore(str(tmp_path), "0123456789").get(7) == {"a": "b"}
    file.write_bytes(content)
    assert AttributeStore(str(tmp_path), "0123456789").get(7) == {}
    file.unlink()
    file.symlink_to("/etc/hostname")
    assert AttributeStore(str(tmp_path), "0123456789").get(7) == {}


def test_a_link_in_the_state_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "attributes").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        AttributeStore(str(tmp_path)).put(7, {"a": "b"})
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_pod_labels_of_crio_are_in_its_pods_sandbox(files: HostFiles, root: Path) -> None:  # noqa: F811
    def write(identity: str, annotations: dict[str, str]) -> None:
        file = root / f"run/containers/storage/overlay-containers/{identity}/userdata/config.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"annotations": annotations}))
        file.chmod(0o644)

    names = {"io.kubernetes.pod.name": "w", "io.kubernetes.pod.namespace": "lab"}
    many = {f"io.kubernetes.cri-o.Filler{number:02}": "x" for number in range(40)}
    write(
        CRIO, {**many, **names, "io.kubernetes.cri-o.SandboxID": "9" * 64, "io.kubernetes.cri-o.Labels": '{"c": "1"}'}
    )
    write("9" * 64, {"io.kubernetes.cri-o.Labels": json.dumps({"app": "agent", "team": "rl"})})
    found = crio.by_id(CRIO, files)
    assert found is not None
    assert (found.labels["app"], found.labels["team"], found.labels["c"]) == ("agent", "rl", "1")
    for hostile in ("[]", "{" * 10000, "", '{"a": [1]}'):
        write("9" * 64, {"io.kubernetes.cri-o.Labels": hostile})
        found = crio.by_id(CRIO, files)
        assert found is not None
        assert found.labels["c"] == "1"
    write(CRIO, {**names, "io.kubernetes.cri-o.SandboxID": "../../../etc"})
    assert crio.by_id(CRIO, files) is not None


def test_pod_labels_of_containerd_are_not_on_disk(files: HostFiles) -> None:  # noqa: F811
    """Its annotations are the runtime's own, and those that `pod_annotations` of its configuration lets through."""
    for identity in (CONTAINERD, PAUSE):
        found = containerd.by_id(identity, files)
        assert found is not None
        assert all(key.startswith("io.kubernetes.cri.") for key in found.labels)
